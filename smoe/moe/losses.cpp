#include "smoe/moe/losses.h"

#include <algorithm>

#include "smoe/base/error.h"

namespace smoe {
namespace {

/// The sum over the layers of what `of_layer` makes of each.
template <class OfLayer>
at::Tensor sum_over_layers(const StatsBook& book, OfLayer of_layer) {
  at::Tensor sum;
  for (const auto& [layer, terms] : book.terms()) {
    const at::Tensor value = of_layer(layer, terms);
    require(value.defined(), "layer ", layer,
            ": its router has no probabilities for an auxiliary loss; set the weights in ", "[losses] to 0");
    sum = sum.defined() ? sum + value : value;
  }
  require(sum.defined(), "an auxiliary loss needs statistics with their terms: StatsBook::Detail::kTerms");
  return sum;
}

/// The mean over a layer's tokens of a quantity that is summed.
at::Tensor mean(const at::Tensor& sum, double tokens) { return sum.defined() ? sum / std::max(tokens, 1.0) : sum; }

}  // namespace

void LossConfig::describe(Fields& fields) {
  // Losses come one by one: a file that is older than one has no weight for it.
  for (const LossKind& kind : loss_kinds()) {
    fields.add_newer(kind.name, &(this->*kind.weight), kind.summary, at_least(0));
  }
  fields.add_newer("devices", &devices,
                   "groups of consecutive experts that device_balance is over; divides moe.experts", at_least(1));
}

bool LossConfig::any() const {
  const std::vector<LossKind>& kinds = loss_kinds();
  return std::any_of(kinds.begin(), kinds.end(), [this](const LossKind& kind) { return this->*kind.weight > 0; });
}

at::Tensor balance_loss(const StatsBook& book) {
  return sum_over_layers(book, [](int64_t, const LayerTerms& layer) {
    if (!layer.probability.defined()) return layer.probability;
    const at::Tensor share = layer.count / layer.count.sum().clamp_min(1);
    const at::Tensor product = share * mean(layer.probability, layer.tokens);
    return product.sum() * static_cast<double>(layer.count.numel());
  });
}

at::Tensor z_loss(const StatsBook& book) {
  return sum_over_layers(book, [](int64_t, const LayerTerms& layer) { return mean(layer.logsumexp_sq, layer.tokens); });
}

at::Tensor entropy_loss(const StatsBook& book) {
  return sum_over_layers(book, [](int64_t, const LayerTerms& layer) { return mean(layer.entropy, layer.tokens); });
}

at::Tensor device_balance_loss(const StatsBook& book, int64_t devices) {
  return sum_over_layers(book, [devices](int64_t, const LayerTerms& layer) {
    if (!layer.probability.defined()) return layer.probability;
    const int64_t experts = layer.count.numel();
    require(experts % devices == 0, "losses.devices = ", devices, " does not divide the ", experts,
            " experts of a layer");
    const at::Tensor share = layer.count / layer.count.sum().clamp_min(1) * static_cast<double>(experts);
    const at::Tensor probability = mean(layer.probability, layer.tokens);
    return (share.view({devices, -1}).mean(1) * probability.view({devices, -1}).sum(1)).sum();
  });
}

at::Tensor global_balance_loss(const StatsBook& book) {
  return sum_over_layers(book, [&book](int64_t index, const LayerTerms& layer) {
    if (!layer.probability.defined()) return layer.probability;
    const PooledCount pooled = book.pooled(index);
    const at::Tensor share = (pooled.count / pooled.count.sum().clamp_min(1)).to(layer.probability.options());
    // The mean over this micro-batch's tokens, times what they are of the mean micro-batch's.
    const at::Tensor probability = layer.probability * (pooled.micro_batches / std::max(pooled.tokens, 1.0));
    return (share * probability).sum() * static_cast<double>(layer.count.numel());
  });
}

const std::vector<LossKind>& loss_kinds() {
  static const std::vector<LossKind> kKinds = {
      {"balance", "weight of E · Σ f·P, which is 1 a layer where every expert takes as much", "Fedus et al., JMLR 2022",
       &LossConfig::balance, [](const StatsBook& book, const LossConfig&) { return balance_loss(book); }},
      {"z", "weight of the mean squared logsumexp of the router's logits, which keeps them small", "Zoph et al., 2022",
       &LossConfig::z, [](const StatsBook& book, const LossConfig&) { return z_loss(book); }},
      {"entropy", "weight of the mean entropy of the router's probabilities, which makes it surer",
       "Huang et al., ACL 2024", &LossConfig::entropy,
       [](const StatsBook& book, const LossConfig&) { return entropy_loss(book); }},
      {"device_balance",
       "weight of the balance of groups of experts, of which there are `devices`: Σ of mean E·f times Σ P",
       "Dai et al., ACL 2024", &LossConfig::device_balance,
       [](const StatsBook& book, const LossConfig& config) { return device_balance_loss(book, config.devices); }},
      {"global_balance",
       "weight of E · Σ f·P with f of all micro-batches so far and all ranks instead of one micro-batch",
       "Qiu et al., 2025", &LossConfig::global_balance,
       [](const StatsBook& book, const LossConfig&) { return global_balance_loss(book); }},
  };
  return kKinds;
}

std::vector<NamedLoss> auxiliary_losses(const StatsBook& book, const LossConfig& config) {
  std::vector<NamedLoss> losses;
  for (const LossKind& kind : loss_kinds()) {
    const double weight = config.*kind.weight;
    if (weight > 0) losses.push_back({kind.name, kind.loss(book, config), weight});
  }
  const size_t first = losses.size();
  const auto add = [&](const std::map<std::string, Term>& terms) {
    for (const auto& [name, term] : terms) {
      const auto same = [&name = name](const NamedLoss& loss) { return loss.name == name; };
      const auto found = std::find_if(losses.begin() + static_cast<std::ptrdiff_t>(first), losses.end(), same);
      if (found == losses.end()) {
        losses.push_back({name, term.value, term.weight});
      } else {
        found->value = found->value + term.value;
      }
    }
  };
  for (const auto& [layer, terms] : book.terms()) add(terms.named);
  for (const auto& [layer, terms] : book.other_terms()) add(terms);
  return losses;
}

}  // namespace smoe
