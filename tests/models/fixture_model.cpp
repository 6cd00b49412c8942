#include "tests/models/fixture_model.h"

#include "smoe/base/error.h"

namespace smoe::testing {

ModelSpec fixture_spec(bool dense) {
  ModelSpec spec;
  spec.vocabulary = 7;
  spec.model = {.layers = 2,
                .width = 8,
                .heads = 2,
                .head_width = 3,
                .ffn_width = 5,
                .moe_layers = {.all = !dense, .ids = {}},
                .dropout = 0};
  spec.moe.experts = 4;
  spec.moe.expert_width = 5;
  return spec;
}

std::vector<std::string> fixture_order(bool dense) {
  std::vector<std::string> names = {"embedding", "output_bias", "content_bias", "position_bias"};
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    for (const char* name :
         {"attention.qkv", "attention.position", "attention.output", "attention_norm_gain", "attention_norm_bias"}) {
      names.push_back(layer + name);
    }
    if (dense) {
      for (const char* name : {"ffn.w1", "ffn.b1", "ffn.w2", "ffn.b2"}) names.push_back(layer + name);
    } else {
      for (const char* name : {"moe.router.weight", "moe.router.bias", "moe.experts.0.w1", "moe.experts.0.b1",
                               "moe.experts.0.w2", "moe.experts.0.b2"}) {
        names.push_back(layer + name);
      }
    }
    for (const char* name : {"output_norm_gain", "output_norm_bias"}) names.push_back(layer + name);
  }
  return names;
}

std::shared_ptr<TransformerXl> fixture_model(bool dense) {
  auto model = std::make_shared<TransformerXl>(fixture_spec(dense), RandomStream(1));
  model->to(torch::kFloat64);
  const torch::NoGradGuard no_grad;
  const std::vector<std::string> order = fixture_order(dense);
  for (size_t p = 0; p < order.size(); ++p) {
    const at::Tensor target = parameter(*model, order[p]);
    const at::Tensor n = torch::arange(target.numel(), torch::kFloat64);
    at::Tensor value = 0.3 * torch::sin(0.7 * n + 1.3 * static_cast<double>(p) + 0.5);
    if (order[p].ends_with("gain")) value = value + 1;
    target.copy_(value.view(target.sizes()));
  }
  return model;
}

at::Tensor fixture_tokens() {
  return torch::tensor({{0, 3, 6, 2, 1, 5, 4, 0, 3, 6}, {5, 1, 6, 4, 0, 2, 3, 6, 5, 1}}, torch::kLong);
}

std::vector<double> fixture_nll(LanguageModel& model, int64_t k) {
  const torch::NoGradGuard no_grad;
  const at::Tensor tokens = fixture_tokens();
  Memory memory = model.empty_memory(2);
  std::vector<double> out;
  for (int64_t first = 0; first < 9; first += 3) {
    const at::Tensor logits = model.forward(tokens.narrow(1, first, 3), memory, {.k = k, .memory_length = 4});
    out.push_back(mean_nll(logits, tokens.narrow(1, first + 1, 3)).item<double>());
  }
  return out;
}

at::Tensor parameter(torch::nn::Module& module, const std::string& name) {
  const auto parameters = module.named_parameters();
  const at::Tensor* found = parameters.find(name);
  require(found != nullptr, "no parameter is called ", name);
  return *found;
}

double gradient_norm(const torch::nn::Module& module) {
  double sum = 0;
  for (const at::Tensor& p : module.parameters()) {
    if (p.grad().defined()) sum += p.grad().square().sum().item<double>();
  }
  return std::sqrt(sum);
}

}  // namespace smoe::testing
