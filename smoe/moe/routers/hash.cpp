// hash: the experts of a token are a fixed random function of its id (Roller et al., "Hash Layers", NeurIPS 2021).
//
//   u(v) = E numbers in [0, 1) drawn for token id v,  S = the k largest of u(v),  weight 1/k
//
// The experts at k are among those at k + 1. Every layer draws a function of its own. The published code of SMoE-Dropout
// hashes the row of the flattened batch instead, so that training and evaluation have unrelated functions; what can be
// kept of that idea, the position in the sequence, is `by = "position"`. No input but ids; ids [T] → expert [T, K].
#include <cmath>

#include "smoe/base/error.h"
#include "smoe/moe/routers/kinds.h"
#include "smoe/moe/select.h"

namespace smoe {
namespace {

constexpr RouterTraits kTraits = {.dial = Dial::kK, .trainable = false, .scores = false};
constexpr uint64_t kHalf = 24;  // bits that fp32 holds exactly

class HashRouter : public Router {
 public:
  HashRouter(const MoeConfig& config, const RandomStream& random)
      : settings_(config.routers.hash), experts_(config.experts) {
    // The key is a parameter, so that a checkpoint keeps it: two whole numbers of 24 bits.
    const uint64_t key = random.at("key").key();
    const at::Tensor halves = random.zeros({2});
    for (uint64_t i = 0; i < 2; ++i) {
      halves[static_cast<int64_t>(i)] = static_cast<double>((key >> (i * kHalf)) & ((uint64_t{1} << kHalf) - 1));
    }
    key_ = register_parameter("key", halves, /*requires_grad=*/false);
  }

  Routing route(const RouteInput& input) override {
    const bool by_token = settings_.by == "token";
    const at::Tensor& id = by_token ? input.batch.token : input.batch.position;
    require(id.defined() && id.numel() == input.x.size(0), "the router 'hash' needs the ",
            by_token ? "ids" : "positions", " of the ", input.x.size(0), " tokens: RouteInput.batch.",
            by_token ? "token" : "position");
    const at::Tensor draw = RandomStream(key()).uniform_rows(id, experts_);
    const at::Tensor expert = select_top_k(draw, input.k).expert;
    return {.expert = expert, .weight = weigh_equally(expert, input.x), .logits = {}, .probabilities = {}, .state = {}};
  }

  RouterTraits traits() const override { return kTraits; }
  int64_t flops_per_token() const override { return 0; }

 private:
  uint64_t key() const {
    return static_cast<uint64_t>(key_[0].item<double>()) | (static_cast<uint64_t>(key_[1].item<double>()) << kHalf);
  }

  HashSettings settings_;
  int64_t experts_;
  at::Tensor key_;
};

}  // namespace

RouterKind hash_kind() {
  return {.name = "hash",
          .summary = "a fixed random function of the token's id, or of its position; equal weights",
          .paper = "Roller et al., NeurIPS 2021",
          .traits = kTraits,
          .make = [](const MoeConfig& config, const RouterPlace&, const RandomStream& random) {
            return std::make_shared<HashRouter>(config, random);
          }};
}

}  // namespace smoe
