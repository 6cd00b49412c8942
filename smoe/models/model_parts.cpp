#include "smoe/models/model_parts.h"

#include <ATen/ops/tensor.h>

#include <algorithm>

namespace smoe {
namespace {

/// A piece of a parameter's name, and the part it stands for; the first that fits counts.
struct NamedPart {
  const char* piece;
  const char* part;
};

constexpr NamedPart kParts[] = {
    {"embedding", "embedding"},
    {".router.", "router"},
    {"router.", "router"},  // what those of all layers share
    {".experts.", "experts"},
    {".shared.", "shared experts"},
    {".attention.", "attention"},
    {".ffn.", "feed-forward"},
    {"_norm_", "norms"},
    {"content_bias", "attention"},
    {"position_bias", "attention"},
    {"output_bias", "embedding"},  // its bias, where it is the output matrix
};

constexpr const char* kOrder[] = {"embedding",      "attention",    "router", "experts",
                                  "shared experts", "feed-forward", "norms",  "other"};

}  // namespace

std::string part_of(const std::string& parameter) {
  for (const NamedPart& entry : kParts) {
    if (parameter.find(entry.piece) != std::string::npos) return entry.part;
  }
  return "other";
}

std::optional<at::Tensor> pick_experts(const at::Tensor& whole, at::IntArrayRef shape, const std::vector<int64_t>& ids,
                                       int64_t experts) {
  if (whole.sizes() == shape) return whole;
  std::vector<int64_t> differing;
  const bool same_rank = whole.dim() == static_cast<int64_t>(shape.size());
  for (int64_t d = 0; same_rank && d < whole.dim(); ++d) {
    if (whole.size(d) != shape[static_cast<size_t>(d)]) differing.push_back(d);
  }
  if (differing.size() != 1 || whole.size(differing[0]) != experts) return std::nullopt;
  return whole.index_select(differing[0], at::tensor(ids, at::device(whole.device()).dtype(at::kLong)));
}

std::vector<PartCount> count_parts(const torch::nn::Module& model) {
  std::vector<PartCount> parts;
  for (const char* part : kOrder) parts.push_back({.part = part});
  for (const auto& item : model.named_parameters()) {
    const auto found = std::find_if(parts.begin(), parts.end(),
                                    [part = part_of(item.key())](const PartCount& p) { return p.part == part; });
    (item.value().requires_grad() ? found->trainable : found->frozen) += item.value().numel();
  }
  std::erase_if(parts, [](const PartCount& p) { return p.total() == 0; });
  return parts;
}

}  // namespace smoe
