// Routers: which experts a token goes to, with what weight. A router never drops a token and never computes an expert.
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "smoe/moe/config.h"
#include "smoe/moe/routing.h"

namespace smoe {

/// What can be turned at inference.
enum class Dial { kNone, kK, kThreshold, kCapacity, kSamples };

/// "none", "k", "threshold", "capacity", "samples".
std::string dial_name(Dial dial);

/// Whether the dial's values are whole numbers: k, samples.
bool has_whole_values(Dial dial);

/// What a kind of router promises; tests and reports follow it.
struct RouterTraits {
  Dial dial = Dial::kK;
  bool trainable = false;             ///< has parameters that the optimizer moves
  bool causal = true;                 ///< a token's routing does not depend on later tokens
  bool batch_independent = true;      ///< … nor on other sequences of the batch
  bool random_at_evaluation = false;  ///< two evaluations may differ
  bool scores = true;                 ///< answers with logits and probabilities, which the losses on them need
  bool more_in_training = false;      ///< in training a token may take more than k experts
  bool state = false;                 ///< goes by what the router of the mixture below made of the token
  bool families = false;              ///< in training, goes by the family of a token's language (kFamilyTag)
};

struct LayerStats;

class Router : public torch::nn::Module {
 public:
  /// The routing of T tokens, T = 0 included. Throws UserError where k is outside [1, E].
  virtual Routing route(const RouteInput& input) = 0;
  virtual RouterTraits traits() const = 0;
  /// Whether training needs this router's statistics at every step: for terms of its own, or for after_update().
  virtual bool wants_statistics() const { return false; }
  /// Called once after each optimizer update with what this layer's routing added up to in it, over all micro-batches and
  /// ranks, for state that no gradient moves. Such state is a parameter that asks for no gradient, so that it is saved.
  virtual void after_update(const LayerStats& stats);
  /// Forward floating-point operations per token, 2 per multiply-add.
  virtual int64_t flops_per_token() const = 0;
};

/// Where a router stands in its model.
struct RouterPlace {
  int64_t width = 0;  ///< of its tokens, D
  int64_t below = 0;  ///< how many mixtures are below its layer; at 0 no state comes up to it
  /// What the routers of all layers share and the model owns; a router of a kind that shares something has one of its own
  /// where there is none.
  std::shared_ptr<torch::nn::Module> shared = nullptr;

  RouterPlace(int64_t of_width, int64_t mixtures_below = 0)  // NOLINT: a width is most of it
      : width(of_width), below(mixtures_below) {}
};

/// A kind of router as the table of kinds lists it.
struct RouterKind {
  std::string name;
  std::string summary;
  std::string paper;
  RouterTraits traits;
  /// What a recipe sets beside moe.router to get the published system: "moe.capacity_factor=1.25".
  std::vector<std::string> published = {};
  /// A router for that place, its weights drawn from `random`.
  std::function<std::shared_ptr<Router>(const MoeConfig&, const RouterPlace&, const RandomStream& random)> make;
  /// Throws UserError where the settings do not go together for this kind; may be null.
  void (*check)(const MoeConfig&) = nullptr;
  /// What the routers of all layers share, for tokens of that width; null where they share nothing.
  std::shared_ptr<torch::nn::Module> (*make_shared)(const MoeConfig&, int64_t width, const RandomStream&) = nullptr;
};

const std::vector<RouterKind>& router_kinds();

/// The kind of that name; throws UserError with the nearest name.
const RouterKind& find_router_kind(const std::string& name);

}  // namespace smoe
