#include "smoe/kernels/kernel_choice.h"

#include <cstdlib>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"

namespace smoe {

const std::vector<std::string>& kernel_choices() {
  static const std::vector<std::string> kNames = {"auto", "reference", "grouped"};  // in the order of the enum
  return kNames;
}

const std::string& name_of(KernelChoice choice) { return kernel_choices()[static_cast<size_t>(choice)]; }

KernelChoice forced_kernels() {
  const char* set = std::getenv("SMOE_KERNEL");
  const std::string kernel = set == nullptr ? "" : set;
  if (kernel.empty()) return KernelChoice::kAny;
  for (const auto choice : {KernelChoice::kAny, KernelChoice::kReference, KernelChoice::kGrouped}) {
    if (kernel == name_of(choice)) return choice;
  }
  throw UserError(concat("SMOE_KERNEL='", kernel, "' is not known; known: ", join(kernel_choices())));
}

bool reference_kernels_forced() { return forced_kernels() == KernelChoice::kReference; }

}  // namespace smoe
