#include "smoe/models/model_parts.h"

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
