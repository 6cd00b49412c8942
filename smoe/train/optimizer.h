// LibTorch's optimizers over the trainable parameters of a model, with a state that is saved by parameter name.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "smoe/tensor/tensor_io.h"
#include "smoe/train/recipe.h"

namespace torch::optim {
class Optimizer;
}

namespace smoe {

/// Updates the parameters that ask for a gradient; frozen ones are unknown to it, to its state and to the clip norm.
class TrainOptimizer {
 public:
  TrainOptimizer(const torch::nn::Module& model, const OptimizerConfig& config);
  ~TrainOptimizer();

  /// The L2 norm of all gradients; scales them to clip_norm where they exceed it.
  double clip_gradients();
  /// One update with learning rate `lr`.
  void step(double lr);
  void zero_gradients();

  /// First and second moments and the number of updates of every parameter: "adam.mean.NAME" and so on.
  NamedTensors state() const;
  /// Takes over what state() returned; throws UserError naming `source` where it does not fit.
  void load_state(const NamedTensors& state, const std::string& source);

  const std::vector<std::string>& names() const { return names_; }

  /// The first parameter with a gradient that is not finite; empty where all are.
  std::string first_bad_gradient() const;

 private:
  OptimizerConfig config_;
  std::vector<std::string> names_;
  std::vector<at::Tensor> parameters_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
};

}  // namespace smoe
