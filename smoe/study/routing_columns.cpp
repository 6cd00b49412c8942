#include "smoe/study/routing_columns.h"

#include <algorithm>
#include <cmath>

namespace smoe {
namespace {

/// Four digits are more than a heat map can show.
double short_number(double value) { return std::round(value * 1e4) / 1e4; }

}  // namespace

RoutingColumns routing_columns(const std::vector<StepLine>& lines, size_t columns) {
  RoutingColumns out;
  const size_t layers = lines.empty() ? 0 : lines[0].layers.size();
  if (layers == 0) return out;
  out.load.resize(layers);
  out.entropy.resize(layers);
  const size_t group = (lines.size() + columns - 1) / columns;
  for (size_t begin = 0; begin < lines.size(); begin += group) {
    const size_t end = std::min(lines.size(), begin + group);
    const auto count = static_cast<double>(end - begin);
    out.step.push_back(lines[end - 1].step);
    for (size_t layer = 0; layer < layers; ++layer) {
      std::vector<double> mean(lines[0].layers[layer].load.size(), 0.0);
      double entropy = 0;
      for (size_t i = begin; i < end; ++i) {
        const LayerLine& line = lines[i].layers[layer];
        for (size_t expert = 0; expert < mean.size(); ++expert) mean[expert] += line.load[expert];
        entropy += line.entropy;
      }
      for (double& load : mean) load = short_number(load / count);
      out.load[layer].push_back(std::move(mean));
      out.entropy[layer].push_back(entropy / count);
    }
  }
  return out;
}

}  // namespace smoe
