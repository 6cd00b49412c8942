// The kinds of expert, one function and one file each; experts.cpp lists them.
#pragma once

#include "smoe/moe/experts.h"

namespace smoe {

ExpertKind ffn_experts_kind();  // ffn.cpp

}  // namespace smoe
