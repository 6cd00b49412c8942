#include "smoe/models/transformer_xl.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <cmath>

#include "smoe/base/error.h"
#include "smoe/kernels/dropout.h"
#include "smoe/kernels/embedding.h"
#include "smoe/kernels/linear.h"
#include "smoe/tensor/profiled_part.h"

namespace smoe {

TransformerXlBlock::TransformerXlBlock(const ModelSpec& spec, int64_t layer, const RouterPlace& place,
                                       const RandomStream& random)
    : dropout_(spec.model.dropout), attention_dropout_(spec.model.attention_dropout) {
  const ModelConfig& m = spec.model;
  const AttentionMixture mixture{
      .moe = spec.moe, .experts = spec.has_mixture_attention(layer) ? m.mixture.experts : 0, .k = m.mixture.k};
  attention_ = register_module(
      "attention",
      std::make_shared<RelativeAttention>(m.width, m.heads, m.head_width, m.init_std, random.at("attention"), mixture));
  const auto gain = [&](const char* name) {
    return register_parameter(name, random.at(name).normal({m.width}, 1, m.init_std));
  };
  attention_gain_ = gain("attention_norm_gain");
  attention_bias_ = register_parameter("attention_norm_bias", random.zeros({m.width}));
  if (m.moe_layers.contains(layer)) {
    moe_ = register_module("moe", std::make_shared<MoeLayer>(spec.moe, place, m.init_std, random.at("moe")));
  } else {
    const Activation activation = parse_activation(spec.moe.activation);
    ffn_ = register_module(
        "ffn", std::make_shared<FeedForward>(m.width, m.ffn_width, activation, m.init_std, random.at("ffn"),
                                             make_hidden_dropout(m, m.ffn_width, random.at("ffn").at("dropout"))));
  }
  output_gain_ = gain("output_norm_gain");
  output_bias_ = register_parameter("output_norm_bias", random.zeros({m.width}));
}

at::Tensor TransformerXlBlock::normalize(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& bias) const {
  const ProfiledPart part("smoe.norms");
  return at::layer_norm(x, {x.size(-1)}, gain, bias, 1e-5);
}

TransformerXlBlock::Result TransformerXlBlock::forward(const at::Tensor& x, const AttentionInput& attention,
                                                       RouteInput route, const Pass& pass, int64_t layer,
                                                       Precision precision) {
  const double p = pass.training ? dropout_ : 0;
  const std::string name = concat("layers.", layer);
  const auto probe = [&](const char* part, const at::Tensor& output) {
    if (pass.probe) pass.probe(name + part, output);
  };

  const at::Tensor attended = attention_->forward(x, attention);
  probe(".attention", attended);
  const at::Tensor y =
      normalize(x + dropout(attended, p, route.random.at("attention output").key()), attention_gain_, attention_bias_);
  route.x = y.reshape({-1, y.size(-1)});
  const uint64_t hidden_key = route.random.at("hidden").key();
  at::Tensor fed, state = route.state;
  if (moe_ != nullptr) {
    const MixOptions options{.precision = precision, .dropout = p, .dropout_key = hidden_key};
    const MoeLayer::Result result = moe_->forward(route, options, pass.book, layer);
    fed = result.y;
    if (result.state.defined()) state = result.state;  // otherwise what came from below passes on
    probe(".moe", fed);
  } else {
    fed = ffn_->forward(route.x, p, hidden_key, precision, pass.training);
    if (pass.book != nullptr && pass.training) pass.book->record_terms(layer, ffn_->terms());
    probe(".ffn", fed);
  }
  const at::Tensor z = y + dropout(fed.view(y.sizes()), p, route.random.at("feed-forward output").key());
  return {normalize(z, output_gain_, output_bias_), state};
}

TransformerXl::TransformerXl(const ModelSpec& spec, const RandomStream& random) : LanguageModel(spec) {
  const ModelConfig& m = spec.model;
  const auto drawn = [&](const char* name, at::IntArrayRef sizes) {
    return register_parameter(name, random.at(name).normal(sizes, 0, m.init_std));
  };
  embedding_ = drawn("embedding", {spec.vocabulary, m.width});
  output_bias_ = register_parameter("output_bias", random.zeros({spec.vocabulary}));
  content_bias_ = drawn("content_bias", {m.heads, m.head_width});
  position_bias_ = drawn("position_bias", {m.heads, m.head_width});
  const auto layers = register_module("layers", std::make_shared<torch::nn::Module>());
  RouterPlace place(m.width);
  const auto make_shared = spec.has_moe() ? find_router_kind(spec.moe.router).make_shared : nullptr;
  if (make_shared != nullptr) {
    place.shared = register_module("router", make_shared(spec.moe, m.width, random.at("router")));
  }
  for (int64_t layer = 0; layer < m.layers; ++layer) {
    blocks_.push_back(std::make_shared<TransformerXlBlock>(spec, layer, place, random.at(concat("layers.", layer))));
    if (m.moe_layers.contains(layer)) ++place.below;
    layers->register_module(std::to_string(layer), blocks_.back());
  }
}

Memory TransformerXl::empty_memory(int64_t batch, MemoryOf of) const {
  Memory memory;
  for (const auto& block : blocks_) memory.layers.push_back(block->attention().empty_memory(batch, of));
  return memory;
}

RouteInput TransformerXl::route_input(const at::Tensor& tokens, const Pass& pass, int64_t memory) const {
  const int64_t B = tokens.size(0), S = tokens.size(1);
  RouteInput route;
  route.batch.token = tokens.reshape({-1});
  route.batch.position = at::arange(memory, memory + S, tokens.options()).expand({B, S}).reshape({-1});
  route.batch.sequence = at::arange(B, tokens.options()).unsqueeze(1).expand({B, S}).reshape({-1});
  for (const auto& [name, tag] : pass.tags) {
    require(tag.sizes() == tokens.sizes(), "the tag '", name, "' must be of all tokens ", tokens.sizes(), ", got ",
            tag.sizes());
    route.batch.tags[name] = tag.reshape({-1});
  }
  route.k = pass.k;
  route.dial = pass.dial;
  route.training = pass.training;
  route.step = pass.step;
  route.progress = pass.progress;
  return route;
}

at::Tensor TransformerXl::forward(const at::Tensor& tokens, Memory& memory, const Pass& pass) {
  require(tokens.dim() == 2, "tokens must be [B, S], got ", tokens.sizes());
  require(memory.layers.size() == blocks_.size(), "the memory has ", memory.layers.size(), " layers, the model ",
          blocks_.size());
  const int64_t B = tokens.size(0), S = tokens.size(1), M = memory.length(), L = M + S, D = spec_.model.width;
  require(M == 0 || memory.batch() == B, "the memory is of ", memory.batch(), " sequences, tokens of ", B);
  const bool keeps_inputs = memory.of() == MemoryOf::kInputs;
  require(keeps_inputs || (!pass.training && !at::GradMode::is_enabled()),
          "a memory of keys and values is for passes without gradients and training: take one of inputs, or an "
          "at::NoGradGuard");
  const double p = pass.training ? spec_.model.dropout : 0;

  at::Tensor x = embed(embedding_, tokens, std::sqrt(static_cast<double>(D)));
  x = dropout(x, p, pass.random.at("embedding").key());
  if (pass.probe) pass.probe("embedding", x);
  AttentionInput attention;
  const at::TensorOptions options = x.options().requires_grad(false);
  if (keeps_inputs) {
    attention.positions = dropout(relative_positions(L, D, options), p, pass.random.at("positions").key());
  } else if (memory.distances() < L) {
    // More than are asked for, so that a memory that grows token by token seldom needs others.
    attention.positions = relative_positions(std::max(L, std::min(2 * L, pass.memory_length + S)), D, options);
  }
  attention.window = pass.fixed_window ? pass.memory_length : -1;
  attention.content_bias = content_bias_;
  attention.position_bias = position_bias_;
  attention.dropout = pass.training ? spec_.model.attention_dropout : 0;
  attention.precision = precision_;
  RouteInput route = route_input(tokens, pass, M);

  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    attention.memory = &memory.layers[layer];
    route.random = pass.random.at(static_cast<uint64_t>(layer));
    attention.dropout_key = route.random.at("attention").key();
    attention.route = route;
    attention.route.random = route.random.at("attention router");
    const TransformerXlBlock::Result result =
        blocks_[layer]->forward(x, attention, route, pass, static_cast<int64_t>(layer), precision_);
    memory.layers[layer].end_segment(x, pass.memory_length);
    x = result.y;
    route.state = result.state;
  }
  x = dropout(x, p, pass.random.at("output").key());
  const ProfiledPart part("smoe.output");
  const at::Tensor logits = linear(x, embedding_, output_bias_, precision_);
  if (pass.probe) pass.probe("output", logits);
  return logits;
}

double TransformerXl::flops_per_token(const Lengths& lengths, const std::vector<ActiveExperts>& active) const {
  // The count of one segment, as the published model computes it: queries, keys and values of memory and segment; the
  // position projection once for the batch; scores, positions and values over all keys (masked ones too).
  const ModelConfig& m = spec_.model;
  const auto D = static_cast<double>(m.width), inner = static_cast<double>(m.heads * m.head_width);
  const auto q = static_cast<double>(lengths.segment), keys = static_cast<double>(lengths.memory + lengths.segment);
  double flops = 2 * q * D * static_cast<double>(spec_.vocabulary);
  size_t mixture = 0;
  for (const auto& block : blocks_) {
    const MixtureProjection* projection = block->attention().mixture();
    flops += (projection != nullptr ? projection->flops_per_token() : 2 * 3 * D * inner) * keys;
    flops += 2 * D * inner * keys / static_cast<double>(lengths.batch);
    flops += 2 * inner * D * q + 6 * q * keys * inner;
    flops += q * (block->moe() != nullptr ? block->moe()->flops_per_token(active.at(mixture++))
                                          : static_cast<double>(block->ffn()->flops_per_token()));
  }
  return flops / q;
}

double TransformerXl::active_parameters(const std::vector<ActiveExperts>& active) const {
  double count = 0;
  size_t mixture = 0;
  for (const at::Tensor& parameter : parameters()) count += static_cast<double>(parameter.numel());
  for (const auto& block : blocks_) {
    if (const MixtureProjection* projection = block->attention().mixture()) {
      count -= static_cast<double>(projection->idle_parameters());
    }
    if (block->moe() == nullptr) continue;
    const auto all = static_cast<double>(block->moe()->experts().size());
    count += block->moe()->active_parameters(active.at(mixture++)) - block->moe()->active_parameters(all);
  }
  return count;
}

std::vector<MoeLayer*> TransformerXl::mixtures() const {
  std::vector<MoeLayer*> out;
  for (const auto& block : blocks_) {
    if (block->moe() != nullptr) out.push_back(block->moe());
  }
  return out;
}

bool TransformerXl::has_terms() const {
  return std::any_of(blocks_.begin(), blocks_.end(), [](const std::shared_ptr<TransformerXlBlock>& block) {
    return block->ffn() != nullptr && block->ffn()->has_terms();
  });
}

}  // namespace smoe
