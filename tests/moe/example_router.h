// The router that CONTRIBUTING.md shows. It is in no table, and the contract tests run it all the same.
#pragma once

#include "smoe/moe/router.h"

namespace smoe {

RouterKind cycle_kind();  // example_router.cpp

}  // namespace smoe
