// What this build is; filled in by the build itself (cmake/smoe_build_info.cmake).
#pragma once

namespace smoe {

extern const char* const kVersion;   ///< the project's, "0.1.0"
extern const char* const kCommit;    ///< of the checkout, "0123456789ab", then "+changes" if there are; "" without one
extern const char* const kBuild;     ///< the CMake build type, "Release"
extern const char* const kCompiler;  ///< "GNU 12.2.0"

}  // namespace smoe
