// What the loop does where experts are spawned: another model takes the place of the one that trains.
#include <algorithm>

#include "smoe/moe/moe_layer.h"
#include "smoe/train/trainer.h"

namespace smoe {

std::shared_ptr<LanguageModel> Trainer::drawn_model(int64_t step) const {
  const ModelSpec spec = recipe_.spawn.spec_at(recipe_.spec(vocabulary_.size()), step, recipe_.train.steps);
  const auto model = make_model(spec, RandomStream(static_cast<uint64_t>(recipe_.train.seed)).at("weights"));
  model->set_precision(parse_precision(recipe_.train.dtype));
  model->to(at::Device(recipe_.train.device));
  return model;
}

void Trainer::use_model(std::shared_ptr<LanguageModel> model) {
  model_ = std::move(model);
  optimizer_ = TrainOptimizer(*model_, recipe_.optimizer);
  attend_to_model();
}

void Trainer::attend_to_model() {
  if (recipe_.average.is_on()) average_.emplace(*model_);
  wants_statistics_ = model_->has_terms();
  for (const MoeLayer* layer : model_->mixtures()) {
    wants_statistics_ = wants_statistics_ || recipe_.losses.any() || layer->router().wants_statistics();
  }
}

void Trainer::spawn_experts() {
  if (!recipe_.spawn.is_on() || step_ != recipe_.spawn.step(recipe_.train.steps)) return;
  const std::shared_ptr<LanguageModel> one = model_;
  const TrainOptimizer of_one = optimizer_;
  const auto many = drawn_model(step_);
  spawn(*one, *many, recipe_.spawn, RandomStream(static_cast<uint64_t>(recipe_.train.seed)).at("spawn"));
  use_model(many);
  optimizer_.take_over(of_one);
  freeze_parts(0);  // what is frozen by now is so in this model too
}

int64_t Trainer::within_experts(int64_t k) const {
  return model_->dial() == Dial::kK ? std::min(k, model_->spec().moe.experts) : k;
}

}  // namespace smoe
