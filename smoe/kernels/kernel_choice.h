// What the environment says about which body of a kernel is to compute.
#pragma once

#include <string>
#include <vector>

namespace smoe {

/// kAny: whichever is fastest.
enum class KernelChoice { kAny, kReference, kGrouped };

/// The names that SMOE_KERNEL may have: auto, reference, grouped.
const std::vector<std::string>& kernel_choices();
const std::string& name_of(KernelChoice choice);

/// What SMOE_KERNEL asks for: reference, the plain bodies; grouped, the mixture's device-neutral body on a grouped product
/// (kernels that have none take what they would take anyway); auto, as where it is not set or empty. Throws UserError for
/// another value. Read at each call, so that a program can compare them.
KernelChoice forced_kernels();

/// Whether the plain bodies are asked for.
bool reference_kernels_forced();

}  // namespace smoe
