// Statistics of a routing trace: what experts are chosen by, how alike they are, and who follows whom.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "smoe/plan/types.h"

namespace smoe {

/// How much one thing tells of another, in bits.
struct Information {
  double bits = 0;     ///< Σ p(a,b) log2 p(a,b) / (p(a) p(b))
  double entropy = 0;  ///< of the second, the most that could be told
  /// The bits that are left where the pairs are broken up at random: what a sample this small feigns.
  double shuffled = 0;
};

/// What the token id tells of the expert (Xue et al., "OpenMoE", ICML 2024): mutual information over the assignments before
/// limit. 0 where every token takes every expert.
Information token_information(const RoutingTrace& trace, const TraceLayer& layer);

/// Why the routing of two traces cannot be compared token by token; empty where it can.
std::string why_incomparable(const RoutingTrace& a, const RoutingTrace& b);

/// How far two routers agree: the experts that a token has in both, as a share of the larger of its two numbers of experts,
/// over all tokens. Experts are matched by their ids, which mean something within one run.
struct Agreement {
  double overlap = 0;
  double chance = 0;  ///< the same expected of two routers with these loads that know nothing of each other
};

/// Of two layers of comparable traces; none where neither has an assignment.
std::optional<Agreement> agreement(const TraceLayer& a, const TraceLayer& b);

/// Assignments at places first to last.
struct DropBucket {
  int64_t first = 0, last = 0, assigned = 0, dropped = 0;
};

/// What limit dropped by a token's place: in its row, or in its whole forward, row after row, which is the order in which a
/// capacity by position fills. In at most `buckets` (≥ 1) of one width, from place 0 on.
enum class DropPlace { kRow, kForward };
std::vector<DropBucket> drops_by_place(const RoutingTrace& trace, const TraceLayer& layer, DropPlace place,
                                       int64_t buckets);

/// Kinds of bytes that any text has: "letters", "digits", "blanks", "punctuation", "controls", "not ASCII".
inline constexpr size_t kTokenClasses = 6;
extern const std::array<const char*, kTokenClasses> kTokenClassNames;
size_t token_class(uint8_t byte);

/// What the tokens of one class took.
struct ClassUse {
  int64_t tokens = 0;
  int64_t computed = 0;  ///< experts of any kind, after limit
  int64_t networks = 0;  ///< of them, those that are networks
};
std::array<ClassUse, kTokenClasses> use_by_class(const RoutingTrace& trace, const TraceLayer& layer);

/// The share of the assignments before limit that each expert got, [E]; zeros where there is none.
std::vector<double> load_of(const TraceLayer& layer);

/// How alike a layer's networks are, by the cosines of their outputs.
struct Redundancy {
  double mean = 0;                ///< over pairs of two; 0 of one network
  double largest = 0;             ///< of a pair
  int64_t first = 0, second = 0;  ///< that pair's expert ids; the same of one network
  double distinct = 0;            ///< n² / Σ s²: n where no two are alike, 1 where all are the same
};
std::optional<Redundancy> redundancy(const TraceLayer& layer);  ///< none where it was not measured

/// Who follows whom from one mixture to the next (Yao et al., "ExFlow", IPDPS 2024): N[i, j] tokens took expert i here and
/// j there.
struct Affinity {
  std::vector<double> follows;  ///< [E, E'] N[i, j] / Σ_j N[i, j]; zeros for an expert that nobody took
  Information information;      ///< what i tells of j
};
Affinity next_layer_affinity(const TraceLayer& layer, const TraceLayer& next, int64_t tokens);

}  // namespace smoe
