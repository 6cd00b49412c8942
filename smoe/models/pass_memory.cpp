// How much memory the models' parts take: the tensors of their forward functions, and of LibTorch's backward functions
// behind them, added up.
#include <algorithm>

#include "smoe/kernels/attention.h"
#include "smoe/kernels/expert_gemm.h"
#include "smoe/kernels/linear.h"
#include "smoe/models/transformer_xl.h"

namespace smoe {
namespace {

constexpr double kFull = 4, kHalf = 2;  // bytes of an element: parameters and what passes between the parts; bf16

double size_of(Precision precision) { return precision == Precision::kBf16 ? kHalf : kFull; }

double elements(const at::Tensor& tensor) { return static_cast<double>(tensor.numel()); }

}  // namespace

PassMemory FeedForward::pass_memory(int64_t tokens, bool dropout, Precision precision, bool training) const {
  const auto T = static_cast<double>(tokens), F = static_cast<double>(w2_.size(1));
  const double hidden = T * F * kFull, rows = T * static_cast<double>(w1_.size(0)) * kFull;
  const bool half = precision == Precision::kBf16;
  PassMemory memory{.kept = 0, .passing = rows + hidden, .packed = 0};
  if (!training) return memory;
  memory.passing = 2 * rows;
  // What the activation keeps: its output for relu, its input for the others, both and the product where it gates.
  const double activated = is_gated(activation_) ? rows + hidden : hidden;
  memory.kept = activated;
  const bool second_operand_is_kept = activation_ == Activation::kRelu && !dropout && !half;
  if (!second_operand_is_kept) memory.kept += half ? hidden * kHalf / kFull : hidden;
  if (hidden_dropout_ != nullptr) memory.kept += 2 * hidden;  // a mask, and what it is applied to
  if (half) memory.kept += T * static_cast<double>(w1_.size(1)) * kHalf;
  if (half && !linear_keeps_only_rows(tokens, w1_.size(1), w2_.size(1), at::kBFloat16))
    memory.kept += (elements(w1_) + elements(w2_)) * kHalf;
  return memory;
}

PassMemory MixtureProjection::pass_memory(int64_t tokens, Precision precision, bool training) const {
  const at::ScalarType type = compute_type(weight_.scalar_type(), precision);
  const auto T = static_cast<double>(tokens), K = static_cast<double>(k_), size = type == at::kBFloat16 ? kHalf : kFull;
  const double sum = T * static_cast<double>(weight_.size(1)) * size;
  PassMemory memory = expert_gemm_memory(weight_, tokens * k_, type, training);
  if (training) {
    memory.kept += K * sum;  // each row's result, for the gradient of its weight
    // Queries, and keys and values, bring gradients with the size of the whole, which then are added.
    memory.passing = std::max(memory.passing + sum, 3 * sum);
  } else {
    memory.passing += sum + (type == at::kBFloat16 ? T * static_cast<double>(weight_.size(2)) * size : 0);
  }
  return memory;
}

PassMemory RelativeAttention::pass_memory(int64_t batch, int64_t segment, int64_t memory, bool dropout,
                                          Precision precision, bool training) const {
  const int64_t length = memory + segment;
  const auto B = static_cast<double>(batch), S = static_cast<double>(segment), L = static_cast<double>(length);
  const auto D = static_cast<double>(position_.size(1));
  PassMemory out = relative_attention_memory({batch, segment, length, heads_, head_width_},
                                             compute_type(position_.scalar_type(), precision), dropout, training);
  PassMemory mixture;
  if (mixture_ != nullptr) mixture = mixture_->pass_memory(batch * length, precision, training);
  const double context = memory > 0 ? B * L * D * kFull : 0;
  out.kept += mixture.kept;
  out.packed += mixture.packed;
  if (!training) {
    // The segment's projection goes to the memory, which while it moves to a larger buffer is there twice.
    const double projection = 3 * B * S * static_cast<double>(position_.size(0)) * size_of(precision);
    out.passing += B * S * D * kFull + (mixture_ != nullptr ? context + mixture.passing : projection);
    return out;
  }
  const bool half = precision == Precision::kBf16;
  const bool only_rows =
      linear_keeps_only_rows(batch * segment, position_.size(1), position_.size(0), half ? at::kBFloat16 : at::kFloat);
  if (half) {
    out.kept += L * D * kHalf;
    if (mixture_ == nullptr) out.kept += B * L * D * kHalf;
    if (!only_rows) {
      out.kept += (elements(position_) + elements(output_)) * kHalf;
      // Queries and keys keep the segment's rows each, the latter beside the memory's.
      if (mixture_ == nullptr) out.kept += (elements(qkv_) + (memory > 0 ? B * S * D : 0)) * kHalf;
    }
  }
  // A product with weights that are trained keeps what it multiplies.
  const bool keeps_context = mixture_ != nullptr ? mixture_->router().traits().trainable : !half && !only_rows;
  if (keeps_context) out.kept += context;
  // The gradients of context and input, and of qkv, which comes in two parts the size of the whole.
  const double rows = mixture_ == nullptr && only_rows ? S : L;
  out.passing += 2 * B * rows * D * kFull + (mixture_ != nullptr ? mixture.passing : 2 * elements(qkv_) * kFull);
  return out;
}

double RelativeAttention::memory_bytes(int64_t batch, int64_t segment, int64_t memory, MemoryOf of,
                                       Precision precision) const {
  const auto B = static_cast<double>(batch), M = static_cast<double>(memory), L = static_cast<double>(memory + segment);
  const auto D = static_cast<double>(position_.size(1)), inner = static_cast<double>(position_.size(0));
  const double inputs = B * M * D * kFull;
  if (of == MemoryOf::kInputs) return inputs;
  const double positions = L * inner * size_of(precision);
  const double places = 1.25 * L;  // GrowingRows: a quarter more than in the longest pass
  return positions + (mixture_ != nullptr ? inputs : 2 * B * places * inner * size_of(precision));
}

PassMemory TransformerXlBlock::pass_memory(const Lengths& lengths, double active, Precision precision,
                                           bool training) const {
  const int64_t tokens = lengths.batch * lengths.segment;
  const double row = static_cast<double>(tokens * attention_gain_.size(0)) * kFull;  // one tensor [T, D]
  PassMemory memory = attention_->pass_memory(lengths.batch, lengths.segment, lengths.memory, attention_dropout_ > 0,
                                              precision, training);
  memory += moe_ != nullptr ? moe_->pass_memory(tokens, active, precision, training)
                            : ffn_->pass_memory(tokens, dropout_ > 0, precision, training);
  // Both norms keep the sums they normalise; their outputs are inputs of the parts that follow.
  if (training) memory.kept += 4 * row;
  memory.passing += 3 * row;
  return memory;
}

PassMemory TransformerXl::pass_memory(const Lengths& lengths, double active, bool training) const {
  const auto T = static_cast<double>(lengths.batch * lengths.segment), D = static_cast<double>(spec_.model.width);
  const double logits = T * static_cast<double>(spec_.vocabulary) * kFull;
  const double positions = static_cast<double>(lengths.memory + lengths.segment) * D * kFull;
  PassMemory memory{.kept = 0, .passing = 0, .packed = 0};
  for (const auto& block : blocks_) memory += block->pass_memory(lengths, active, precision_, training);
  // The backward pass is through with the logits when it comes to the blocks.
  memory.passing += positions - (training ? logits : 0);
  memory.passing = std::max(memory.passing, 2 * logits + T * D * kFull);
  if (!training) return memory;
  memory.kept += T * D * kFull + logits;  // the embedded tokens
  if (spec_.model.dropout > 0) memory.kept += T * D * kFull;
  if (precision_ == Precision::kBf16) {
    memory.kept += T * D * kHalf;
    if (!linear_keeps_only_rows(lengths.batch * lengths.segment, embedding_.size(1), embedding_.size(0),
                                at::kBFloat16)) {
      memory.kept += elements(embedding_) * kHalf;
    }
  }
  return memory;
}

double TransformerXl::memory_bytes(const Lengths& lengths, MemoryOf of) const {
  double bytes = 0;
  for (const auto& block : blocks_) {
    bytes += block->attention().memory_bytes(lengths.batch, lengths.segment, lengths.memory, of, precision_);
  }
  return bytes;
}

}  // namespace smoe
