// The mean of a model's weights over training (Izmailov et al., UAI 2018), as the released code of Chen et al., ICLR 2023,
// keeps it under the name swad: a snapshot at each evaluation, all of them with the same weight.
#pragma once

#include <cstdint>
#include <string>

#include "smoe/base/config.h"
#include "smoe/tensor/tensor_io.h"

namespace torch::nn {
class Module;
}

namespace smoe {

/// The table [average] of a recipe.
struct AverageConfig {
  double start = 1;
  double end = 1;

  void describe(Fields& fields);
  /// Throws UserError where it ends before it starts.
  void check() const;

  bool is_on() const { return start < 1; }
  /// Whether the weights after `step` updates of `steps` are a snapshot; `eval_every` is the training's.
  bool takes(int64_t step, int64_t eval_every, int64_t steps) const;
};

/// The running mean of the parameters: after n snapshots, their plain mean.
class WeightAverage {
 public:
  /// Of a model whose parameters keep their names and shapes; frozen ones are averaged too, and stay what they are.
  explicit WeightAverage(const torch::nn::Module& model);

  /// Adds the parameters' values now: mean += (value − mean) / n.
  void add(const torch::nn::Module& model);
  int64_t snapshots() const { return snapshots_; }

  /// Swaps the mean with the model's values; a second call swaps them back, to the bit.
  void swap(torch::nn::Module& model);

  /// The means by parameter name, "average.NAME"; none before the first snapshot.
  NamedTensors state() const;
  /// Takes over what state() returned after so many snapshots; throws UserError naming `source` where it does not fit.
  void load_state(const NamedTensors& loaded, int64_t snapshots, const std::string& source);

 private:
  NamedTensors means_;
  int64_t snapshots_ = 0;
};

}  // namespace smoe
