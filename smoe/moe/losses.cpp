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
    const at::Tensor value = of_layer(terms);
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
  for (const LossKind& kind : loss_kinds()) fields.add(kind.name, &(this->*kind.weight), kind.summary, at_least(0));
}

at::Tensor balance_loss(const StatsBook& book) {
  return sum_over_layers(book, [](const LayerTerms& layer) {
    if (!layer.probability.defined()) return layer.probability;
    const at::Tensor share = layer.count / layer.count.sum().clamp_min(1);
    const at::Tensor product = share * mean(layer.probability, layer.tokens);
    return product.sum() * static_cast<double>(layer.count.numel());
  });
}

at::Tensor z_loss(const StatsBook& book) {
  return sum_over_layers(book, [](const LayerTerms& layer) { return mean(layer.logsumexp_sq, layer.tokens); });
}

at::Tensor entropy_loss(const StatsBook& book) {
  return sum_over_layers(book, [](const LayerTerms& layer) { return mean(layer.entropy, layer.tokens); });
}

const std::vector<LossKind>& loss_kinds() {
  static const std::vector<LossKind> kinds = {
      {"balance", "weight of E · Σ f·P, which is 1 a layer where every expert takes as much", "Fedus et al., JMLR 2022",
       &LossConfig::balance, balance_loss},
      {"z", "weight of the mean squared logsumexp of the router's logits, which keeps them small", "Zoph et al., 2022",
       &LossConfig::z, z_loss},
      {"entropy", "weight of the mean entropy of the router's probabilities, which makes it surer",
       "Huang et al., ACL 2024", &LossConfig::entropy, entropy_loss},
  };
  return kinds;
}

std::vector<NamedLoss> auxiliary_losses(const StatsBook& book, const LossConfig& config) {
  std::vector<NamedLoss> losses;
  for (const LossKind& kind : loss_kinds()) {
    const double weight = config.*kind.weight;
    if (weight > 0) losses.push_back({kind.name, kind.loss(book), weight});
  }
  const size_t first = losses.size();
  for (const auto& [layer, terms] : book.terms()) {
    for (const auto& [name, term] : terms.named) {
      const auto same = [&name = name](const NamedLoss& loss) { return loss.name == name; };
      const auto found = std::find_if(losses.begin() + static_cast<std::ptrdiff_t>(first), losses.end(), same);
      if (found == losses.end()) {
        losses.push_back({name, term.value, term.weight});
      } else {
        found->value = found->value + term.value;
      }
    }
  }
  return losses;
}

}  // namespace smoe
