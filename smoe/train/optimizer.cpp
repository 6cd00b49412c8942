#include "smoe/train/optimizer.h"

#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>

#include <tuple>

#include "smoe/base/error.h"

namespace smoe {
namespace {

template <class Options>
Options make_options(const OptimizerConfig& config) {
  return Options(config.lr)
      .betas(std::make_tuple(config.beta1, config.beta2))
      .eps(config.epsilon)
      .weight_decay(config.weight_decay);
}

/// The moments of a parameter as its optimizer keeps them, made where it has none yet.
template <class State>
State& state_of(torch::optim::Optimizer& optimizer, const at::Tensor& parameter) {
  auto& entry = optimizer.state()[parameter.unsafeGetTensorImpl()];
  if (entry == nullptr) {
    auto fresh = std::make_unique<State>();
    fresh->step(0);
    fresh->exp_avg(torch::zeros_like(parameter, at::MemoryFormat::Preserve));
    fresh->exp_avg_sq(torch::zeros_like(parameter, at::MemoryFormat::Preserve));
    entry = std::move(fresh);
  }
  return static_cast<State&>(*entry);
}

template <class State>
void append_state(torch::optim::Optimizer& optimizer, const at::Tensor& parameter, const std::string& name,
                  NamedTensors& out) {
  const State& state = state_of<State>(optimizer, parameter);
  out.emplace_back("adam.mean." + name, state.exp_avg());
  out.emplace_back("adam.square." + name, state.exp_avg_sq());
  out.emplace_back("adam.updates." + name, torch::tensor(state.step(), torch::kLong));
}

}  // namespace

TrainOptimizer::TrainOptimizer(const torch::nn::Module& model, const OptimizerConfig& config) : config_(config) {
  for (const auto& item : model.named_parameters()) {
    if (!item.value().requires_grad()) continue;
    names_.push_back(item.key());
    parameters_.push_back(item.value());
  }
  if (config.kind == "adamw") {
    optimizer_ = std::make_unique<torch::optim::AdamW>(parameters_, make_options<torch::optim::AdamWOptions>(config));
  } else {
    optimizer_ = std::make_unique<torch::optim::Adam>(parameters_, make_options<torch::optim::AdamOptions>(config));
  }
}

TrainOptimizer::~TrainOptimizer() = default;

double TrainOptimizer::clip_gradients() { return torch::nn::utils::clip_grad_norm_(parameters_, config_.clip_norm); }

void TrainOptimizer::step(double lr) {
  for (auto& group : optimizer_->param_groups()) group.options().set_lr(lr);
  optimizer_->step();
}

void TrainOptimizer::zero_gradients() { optimizer_->zero_grad(/*set_to_none=*/true); }

NamedTensors TrainOptimizer::state() const {
  NamedTensors out;
  for (size_t i = 0; i < names_.size(); ++i) {
    if (config_.kind == "adamw") {
      append_state<torch::optim::AdamWParamState>(*optimizer_, parameters_[i], names_[i], out);
    } else {
      append_state<torch::optim::AdamParamState>(*optimizer_, parameters_[i], names_[i], out);
    }
  }
  return out;
}

void TrainOptimizer::load_state(const NamedTensors& state, const std::string& source) {
  // The moments are overwritten in place; the counts are numbers, so they go through tensors of their own.
  const NamedTensors targets = this->state();
  copy_tensors(state, targets, source);
  for (size_t i = 0; i < names_.size(); ++i) {
    const int64_t updates = targets[3 * i + 2].second.item<int64_t>();
    if (config_.kind == "adamw") {
      state_of<torch::optim::AdamWParamState>(*optimizer_, parameters_[i]).step(updates);
    } else {
      state_of<torch::optim::AdamParamState>(*optimizer_, parameters_[i]).step(updates);
    }
  }
}

std::string TrainOptimizer::first_bad_gradient() const {
  for (size_t i = 0; i < names_.size(); ++i) {
    const at::Tensor& gradient = parameters_[i].grad();
    if (gradient.defined() && !gradient.isfinite().all().item<bool>()) return names_[i];
  }
  return "";
}

}  // namespace smoe
