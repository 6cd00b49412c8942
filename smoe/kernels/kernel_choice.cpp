#include "smoe/kernels/kernel_choice.h"

#include <cstdlib>
#include <string>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"

namespace smoe {

bool reference_kernels_forced() {
  const char* set = std::getenv("SMOE_KERNEL");
  const std::string kernel = set == nullptr ? "" : set;
  require(kernel.empty() || kernel == "reference", "SMOE_KERNEL='", kernel, "' is not known",
          suggest(kernel, {"reference"}));
  return !kernel.empty();
}

}  // namespace smoe
