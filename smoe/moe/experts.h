// Experts: what a layer's experts compute. A layer's routed experts are an ordered list of homogeneous groups with
// consecutive ids.
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "smoe/kernels/pass_memory.h"
#include "smoe/moe/config.h"
#include "smoe/moe/routing.h"
#include "smoe/tensor/precision.h"

namespace smoe {

/// What a mixture needs to know beside tokens and routing.
struct MixOptions {
  Precision precision = Precision::kFull;
  double dropout = 0;        ///< probability between an expert's matrices; 0 at evaluation
  uint64_t dropout_key = 0;  ///< stands for layer and step
};

/// A group of experts of one kind and one size.
class ExpertGroup : public torch::nn::Module {
 public:
  virtual int64_t size() const = 0;
  /// Whether its experts are networks, which count as active; the others cost next to nothing.
  virtual bool is_network() const { return true; }
  /// Σ_s weight[t, s] · E_{expert[t, s]}(x[t]) over the slots whose id is in [0, size()); x [T, D] → [T, D] in the dtype of
  /// x, undefined where the experts add nothing. A row's bits depend on that row, its routing and the weights alone.
  virtual at::Tensor mix(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight,
                         const MixOptions& options) = 0;
  /// Forward floating-point operations of one expert for one token, 2 per multiply-add, biases not counted.
  virtual int64_t flops_per_row() const = 0;
  /// Parameters of one expert.
  virtual int64_t parameters_per_expert() const = 0;
  /// What mix() of `tokens` tokens takes that take `slots` of these experts each, spread evenly; with `training` its
  /// backward pass too.
  virtual PassMemory pass_memory(int64_t tokens, double slots, Precision precision, bool training) const = 0;
};

/// The routed experts of a layer; expert ids run through the groups in order.
class Experts : public torch::nn::Module {
 public:
  explicit Experts(std::vector<std::shared_ptr<ExpertGroup>> groups);

  int64_t size() const { return size_; }
  const std::vector<std::shared_ptr<ExpertGroup>>& groups() const { return groups_; }
  /// The mixture of all groups, [T, D] in the dtype of x.
  at::Tensor mix(const at::Tensor& x, const Routing& routing, const MixOptions& options);

 private:
  std::vector<std::shared_ptr<ExpertGroup>> groups_;
  int64_t size_ = 0;
};

/// A kind of expert as the table of kinds lists it.
struct ExpertKind {
  std::string name;
  std::string summary;
  /// Where a layer has such experts beside its networks: the setting that says how many. Null for networks.
  int64_t MoeConfig::* count = nullptr;
  /// `count` experts for tokens of width `width`, weights Normal(0, init_std²) from `random`, biases zero.
  std::function<std::shared_ptr<ExpertGroup>(const MoeConfig&, int64_t count, int64_t width, double init_std,
                                             const RandomStream& random)>
      make;
};

/// Kinds of networks first, and then the others in the order of a layer's groups.
const std::vector<ExpertKind>& expert_kinds();

/// The groups of a layer's routed experts: its networks, and then those that cost next to nothing.
std::vector<std::shared_ptr<ExpertGroup>> routed_experts(const MoeConfig& config, int64_t width, double init_std,
                                                         const RandomStream& random);

/// The kind of that name; throws UserError with the nearest name.
const ExpertKind& find_expert_kind(const std::string& name);

}  // namespace smoe
