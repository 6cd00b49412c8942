// The kinds of expert, one function and one file each; experts.cpp lists them.
#pragma once

#include "smoe/moe/experts.h"

namespace smoe {

ExpertKind ffn_experts_kind();       // ffn.cpp
ExpertKind null_experts_kind();      // null.cpp
ExpertKind copy_experts_kind();      // copy.cpp
ExpertKind constant_experts_kind();  // constant.cpp

}  // namespace smoe
