// The kinds of router, one function and one file each; router.cpp lists them.
#pragma once

#include "smoe/moe/router.h"

namespace smoe {

RouterKind random_frozen_kind();  // random_frozen.cpp

}  // namespace smoe
