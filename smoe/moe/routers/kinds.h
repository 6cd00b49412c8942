// The kinds of router, one function and one file each; router.cpp lists them.
#pragma once

#include "smoe/moe/router.h"

namespace smoe {

RouterKind random_frozen_kind();    // random_frozen.cpp
RouterKind learned_kind();          // learned.cpp
RouterKind switch_kind();           // switch.cpp
RouterKind gshard_kind();           // gshard.cpp
RouterKind noisy_topk_kind();       // noisy_topk.cpp
RouterKind hash_kind();             // hash.cpp
RouterKind random_token_kind();     // random_token.cpp
RouterKind expert_choice_kind();    // expert_choice.cpp
RouterKind top_p_kind();            // top_p.cpp
RouterKind thor_kind();             // thor.cpp
RouterKind drop_gate_kind();        // drop_gate.cpp
RouterKind dense_to_sparse_kind();  // dense_to_sparse.cpp
RouterKind adamoe_kind();           // adamoe.cpp
RouterKind moe_pp_kind();           // moe_pp.cpp
RouterKind rmoe_kind();             // rmoe.cpp
RouterKind comet_kind();            // comet.cpp
RouterKind evomoe_kind();           // evomoe.cpp
RouterKind post_moe_kind();         // post_moe.cpp

}  // namespace smoe
