#include "smoe/train/weight_average.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>

#include "smoe/base/error.h"
#include "smoe/models/model_folder.h"

namespace smoe {

void AverageConfig::describe(Fields& fields) {
  fields.add_newer(
      "start", &start,
      "share of the training after which the weights at each evaluation on valid are averaged; 1: they are not",
      between(0, 1));
  fields.add_newer("end", &end, "share of the training after which the mean stays as it is", between(0, 1));
}

void AverageConfig::check() const {
  require(!is_on() || start <= end, "average.start = ", start, " is larger than average.end = ", end);
}

bool AverageConfig::takes(int64_t step, int64_t eval_every, int64_t steps) const {
  const auto at = static_cast<double>(step), all = static_cast<double>(steps);
  if (!is_on() || step < 1 || at < start * all || at > end * all) return false;
  return step % eval_every == 0 || step == steps;
}

WeightAverage::WeightAverage(const torch::nn::Module& model) {
  for (const auto& [name, parameter] : named_tensors(model)) {
    means_.emplace_back("average." + name, at::empty_like(parameter.detach(), at::MemoryFormat::Contiguous));
  }
}

void WeightAverage::add(const torch::nn::Module& model) {
  const at::NoGradGuard no_grad;
  ++snapshots_;
  const NamedTensors values = named_tensors(model);
  for (size_t i = 0; i < means_.size(); ++i) {
    at::Tensor& mean = means_[i].second;
    if (snapshots_ == 1) {
      mean.copy_(values[i].second);
    } else {
      mean += (values[i].second - mean) / static_cast<double>(snapshots_);
    }
  }
}

void WeightAverage::swap(torch::nn::Module& model) {
  const at::NoGradGuard no_grad;
  const NamedTensors values = named_tensors(model);
  for (size_t i = 0; i < means_.size(); ++i) {
    const at::Tensor before = values[i].second.clone();
    values[i].second.copy_(means_[i].second);
    means_[i].second.copy_(before);
  }
}

NamedTensors WeightAverage::state() const { return snapshots_ > 0 ? means_ : NamedTensors(); }

void WeightAverage::load_state(const NamedTensors& loaded, int64_t snapshots, const std::string& source) {
  require(snapshots >= 0, source, ": a mean of ", snapshots, " snapshots makes no sense");
  snapshots_ = snapshots;
  copy_tensors(loaded, state(), source);
}

}  // namespace smoe
