// What the environment says about which body of a kernel is to compute.
#pragma once

namespace smoe {

/// Whether SMOE_KERNEL=reference asks for the plain bodies; throws UserError for another value. Read at each call, so that
/// a program can compare the two.
bool reference_kernels_forced();

}  // namespace smoe
