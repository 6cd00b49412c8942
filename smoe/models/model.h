// Language models: what the loop, evaluation and generation need of one.
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "smoe/kernels/pass_memory.h"
#include "smoe/models/config.h"
#include "smoe/models/memory.h"
#include "smoe/moe/router.h"
#include "smoe/moe/stats_book.h"
#include "smoe/tensor/precision.h"

namespace smoe {

class MoeLayer;

/// How one forward is to be made.
struct Pass {
  ActiveK k;                        ///< active experts, for models whose dial is k; per token in the order of [B, S]
  std::optional<double> dial = {};  ///< for models with another dial; unset: what the router's settings say
  bool training = false;            ///< dropout on
  int64_t step = 0;                 ///< optimizer updates made so far
  double progress = 0;              ///< step over the steps of the whole run
  RandomStream random{0};           ///< for dropout and routers, this step's and micro-batch's own
  int64_t memory_length = 0;        ///< tokens to remember after this forward
  std::map<std::string, at::Tensor> tags = {};  ///< int64 [B, S] each, what is known of the tokens: BatchView::tags
  /// Each query attends to at most memory_length + 1 keys, itself included, however the text is cut into segments.
  /// Off, a query attends to the whole memory and all before it in its segment.
  bool fixed_window = false;
  StatsBook* book = nullptr;  ///< where routing statistics go
  /// Called with the name and output of each part, to find where a value stops being finite.
  std::function<void(const std::string& part, const at::Tensor& output)> probe = nullptr;
};

/// The lengths that decide what a forward costs.
struct Lengths {
  int64_t batch = 1;
  int64_t segment = 1;
  int64_t memory = 0;
};

/// A causal language model over token ids.
class LanguageModel : public torch::nn::Module {
 public:
  /// tokens int64 [B, S] → logits [B, S, V] of the next token at each place. `memory` is read, and replaced by the
  /// memory after these tokens, without gradient; after an error it is of no use. Throws UserError for a memory of keys
  /// and values in training or with gradients on, and for one of another number of sequences or layers.
  virtual at::Tensor forward(const at::Tensor& tokens, Memory& memory, const Pass& pass) = 0;

  /// Memory of no tokens for `batch` sequences. One of keys and values is for evaluation and generation, where past
  /// tokens need not be projected again: as long as it is used, weights and precision must stay as they are. Default:
  /// inputs, which are right everywhere.
  virtual Memory empty_memory(int64_t batch, MemoryOf of) const = 0;
  Memory empty_memory(int64_t batch) const { return empty_memory(batch, MemoryOf::kInputs); }

  /// Forward floating-point operations per token with those active experts, one entry a mixture, 2 per multiply-add;
  /// matrix products only, counted as the published model computes them: queries, keys and values of the memory too,
  /// even where it has these already.
  virtual double flops_per_token(const Lengths& lengths, const std::vector<ActiveExperts>& active) const = 0;
  /// The same with `active` experts a token in each mixture.
  double flops_per_token(const Lengths& lengths, double active) const {
    return flops_per_token(lengths, std::vector<ActiveExperts>(mixtures().size(), active));
  }

  /// Parameters that a token with those active experts touches.
  virtual double active_parameters(const std::vector<ActiveExperts>& active) const = 0;
  double active_parameters(double active) const {
    return active_parameters(std::vector<ActiveExperts>(mixtures().size(), active));
  }

  /// What a forward at these lengths with `active` experts a token takes, with `training` its backward pass too;
  /// without it, the memory is one of keys and values. The memory itself is not part of it.
  virtual PassMemory pass_memory(const Lengths& lengths, double active, bool training) const = 0;

  /// Bytes of a memory at these lengths, between two passes: an upper bound.
  virtual double memory_bytes(const Lengths& lengths, MemoryOf of) const = 0;

  /// The mixtures of the model, from the lowest layer to the highest; none in a dense one.
  virtual std::vector<MoeLayer*> mixtures() const = 0;

  /// Whether parts that are no mixtures add terms to the objective, through the book.
  virtual bool has_terms() const { return false; }

  /// What its routers declare; nullopt for a dense model.
  std::optional<RouterTraits> router_traits() const;

  /// The dial of its routers; kNone for a dense model.
  Dial dial() const;

  const ModelSpec& spec() const { return spec_; }
  void set_precision(Precision precision) { precision_ = precision; }

 protected:
  explicit LanguageModel(ModelSpec spec) : spec_(std::move(spec)) {}

  ModelSpec spec_;
  Precision precision_ = Precision::kFull;
};

/// A kind of model as the table of kinds lists it.
struct ModelKind {
  std::string name;
  std::string summary;
  std::function<std::shared_ptr<LanguageModel>(const ModelSpec&, const RandomStream& random)> make;
};

const std::vector<ModelKind>& model_kinds();

/// Checks the spec and makes the model, its weights drawn from `random`.
std::shared_ptr<LanguageModel> make_model(const ModelSpec& spec, const RandomStream& random);

/// Mean negative log-likelihood in nats of targets int64 [B, S] under logits [B, S, V].
at::Tensor mean_nll(const at::Tensor& logits, const at::Tensor& targets);

}  // namespace smoe
