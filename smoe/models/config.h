// Settings of a model: the tables [model] and [moe] of a recipe, and what the data adds to them.
#pragma once

#include <cstdint>
#include <string>

#include "smoe/base/config.h"
#include "smoe/moe/config.h"

namespace smoe {

/// The table [model.concrete].
struct ConcreteDropoutConfig {
  double rate = 0.1;
  double temperature = 0.1;
  double weight_scale = 1e-6;
  double rate_scale = 1e-5;

  void describe(Fields& fields);
};

/// The table [model.drop_block].
struct DropBlockConfig {
  double rate = 0.1;
  int64_t size = 7;

  void describe(Fields& fields);
};

/// The table [model.expert].
struct ExpertDropoutConfig {
  double rate = 0.5;
  int64_t groups = 64;

  void describe(Fields& fields);
};

/// The table [model.mixture] of a recipe: which layers' attention is a mixture, and of what.
struct MixtureAttentionConfig {
  LayerSelection layers{.all = true, .ids = {}};
  int64_t experts = 16;
  int64_t k = 1;

  void describe(Fields& fields);
};

/// The table [model] of a recipe.
struct ModelConfig {
  std::string kind = "transformer_xl";
  int64_t layers = 4;
  int64_t width = 256;
  int64_t heads = 8;
  int64_t head_width = 64;
  int64_t ffn_width = 512;
  LayerSelection moe_layers{.all = true, .ids = {}};
  double dropout = 0.1;
  double attention_dropout = 0;
  double init_std = 0.02;
  std::string ffn_dropout = "plain";
  ConcreteDropoutConfig concrete = {};
  DropBlockConfig drop_block = {};
  ExpertDropoutConfig expert_dropout = {};
  std::string attention = "plain";
  MixtureAttentionConfig mixture = {};

  void describe(Fields& fields);
};

/// All that decides a model's tensors and what it computes.
struct ModelSpec {
  ModelConfig model;
  MoeConfig moe;
  int64_t vocabulary = 256;

  /// Throws UserError where fields contradict each other.
  void check() const;
  bool has_moe() const;
  /// Whether some layer is no mixture.
  bool has_dense() const;
  /// Whether the attention of that layer is a mixture; of any layer.
  bool has_mixture_attention(int64_t layer) const;
  bool has_mixture_attention() const;
};

}  // namespace smoe
