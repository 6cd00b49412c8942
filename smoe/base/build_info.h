// What this build is; filled in by CMake (cmake/build_info.cpp.in).
#pragma once

namespace smoe {

extern const char* const kVersion;   ///< the project's, "0.1.0"
extern const char* const kBuild;     ///< the CMake build type, "Release"
extern const char* const kCompiler;  ///< "GNU 12.2.0"

}  // namespace smoe
