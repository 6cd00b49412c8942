// What depends on LibTorch's version; the code builds with 2.11 and later.
#pragma once

#include <torch/version.h>

#include <string>

static_assert(TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 11),
              "smoe needs LibTorch 2.11 or later");

namespace smoe {

/// LibTorch's version as it was compiled against ("2.13.0").
inline std::string libtorch_version() { return TORCH_VERSION; }

}  // namespace smoe
