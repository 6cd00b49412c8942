// Transformer-XL with mixtures of experts in place of feed-forward blocks (Chen et al., ICLR 2023; Dai et al., ACL 2019).
#pragma once

#include <memory>
#include <vector>

#include "smoe/models/feed_forward.h"
#include "smoe/models/model.h"
#include "smoe/models/relative_attention.h"
#include "smoe/moe/moe_layer.h"

namespace smoe {

/// Post-norm block: y = LN(x + drop(attention(x))), z = LN(y + drop(MoE(y))) or the same with a dense network.
class TransformerXlBlock : public torch::nn::Module {
 public:
  /// The block of that layer of the model. `place`: where its router would stand.
  TransformerXlBlock(const ModelSpec& spec, int64_t layer, const RouterPlace& place, const RandomStream& random);

  struct Result {
    at::Tensor y;      ///< [B, S, D]
    at::Tensor state;  ///< the routers' per-token state
  };
  /// x [B, S, D]. `route` carries everything of the forward but x; `name` is the block's, for the probe.
  Result forward(const at::Tensor& x, const AttentionInput& attention, RouteInput route, const Pass& pass,
                 int64_t layer, Precision precision);

  /// The mixture, or nullptr in a dense block.
  MoeLayer* moe() { return moe_.get(); }
  const MoeLayer* moe() const { return moe_.get(); }
  const FeedForward* ffn() const { return ffn_.get(); }
  const RelativeAttention& attention() const { return *attention_; }
  /// As LanguageModel::pass_memory, of this block.
  PassMemory pass_memory(const Lengths& lengths, double active, Precision precision, bool training) const;

 private:
  at::Tensor normalize(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& bias) const;

  double dropout_, attention_dropout_;
  std::shared_ptr<RelativeAttention> attention_;
  std::shared_ptr<MoeLayer> moe_;
  std::shared_ptr<FeedForward> ffn_;
  at::Tensor attention_gain_, attention_bias_, output_gain_, output_bias_;
};

/// Input √D · embedding; output logits through the same, unscaled embedding and a bias. Memory keeps, for each layer,
/// its past inputs, or their keys and values. Initialisation: all matrices, the embedding and the attention biases
/// Normal(0, init_std²), gains of layer norms Normal(1, init_std²), all other biases 0.
class TransformerXl : public LanguageModel {
 public:
  TransformerXl(const ModelSpec& spec, const RandomStream& random);

  at::Tensor forward(const at::Tensor& tokens, Memory& memory, const Pass& pass) override;
  using LanguageModel::empty_memory;
  Memory empty_memory(int64_t batch, MemoryOf of) const override;
  using LanguageModel::active_parameters;
  using LanguageModel::flops_per_token;
  double flops_per_token(const Lengths& lengths, const std::vector<ActiveExperts>& active) const override;
  double active_parameters(const std::vector<ActiveExperts>& active) const override;
  PassMemory pass_memory(const Lengths& lengths, double active, bool training) const override;
  double memory_bytes(const Lengths& lengths, MemoryOf of) const override;
  std::vector<MoeLayer*> mixtures() const override;
  bool has_terms() const override;

  const std::vector<std::shared_ptr<TransformerXlBlock>>& blocks() const { return blocks_; }

 private:
  RouteInput route_input(const at::Tensor& tokens, const Pass& pass, int64_t memory) const;

  at::Tensor embedding_, output_bias_, content_bias_, position_bias_;
  std::vector<std::shared_ptr<TransformerXlBlock>> blocks_;
};

}  // namespace smoe
