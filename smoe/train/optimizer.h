// Adam and AdamW over the trainable parameters of a model, with a state that is saved by parameter name.
#pragma once

#include <torch/nn/module.h>

#include <optional>
#include <string>
#include <vector>

#include "smoe/tensor/tensor_io.h"
#include "smoe/train/recipe.h"

namespace smoe {

/// Updates the parameters that ask for a gradient; frozen ones are unknown to it, to its state and to the norm. The
/// update is LibTorch's fused one; its bits do not depend on the number of threads.
class TrainOptimizer {
 public:
  TrainOptimizer(const torch::nn::Module& model, OptimizerConfig config);

  /// The L2 norm of all gradients together; not finite where one of them is not.
  double gradient_norm() const;
  /// One update with learning rate `lr`, of gradients scaled by min(1, clip_norm / (norm + 1e-6)); `norm` is what
  /// gradient_norm() returned. Parameters without a gradient stay as they are. Leaves the gradients scaled.
  void step(double lr, double norm);
  void zero_gradients();

  /// First and second moments and the number of updates of every parameter: "adam.mean.NAME" and so on.
  NamedTensors state() const;
  /// Takes over what state() returned; throws UserError naming `source` where it does not fit.
  void load_state(const NamedTensors& loaded, const std::string& source);

  /// Takes over what `other` keeps of parameters of the same name and shape; the others start anew.
  void take_over(const TrainOptimizer& other);

  /// Drops the parameters of these names, moments and counts with them: from now on it neither moves nor measures them.
  /// Names that it does not know are passed over.
  void forget(const std::vector<std::string>& names);

  const std::vector<std::string>& names() const { return names_; }

  /// The first parameter with a gradient that is not finite; empty where all are.
  std::string first_bad_gradient() const;

 private:
  /// A trainable parameter and what Adam keeps of it.
  struct Entry {
    at::Tensor parameter, mean, square;
    at::Tensor updates;  // int64 [], on the CPU
  };
  struct Piece;
  std::vector<std::vector<Piece>> shares(int64_t count) const;
  void update(const std::vector<Piece>& share, double lr, const std::optional<at::Tensor>& divisor) const;

  OptimizerConfig config_;
  std::vector<std::string> names_;
  std::vector<Entry> entries_;
};

}  // namespace smoe
