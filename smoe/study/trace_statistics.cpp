#include "smoe/study/trace_statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <span>

#include "smoe/base/error.h"

namespace smoe {
namespace {

/// Counts of pairs, [rows, columns].
struct Pairs {
  int64_t rows = 0, columns = 0;
  std::vector<double> count;

  Pairs(int64_t of_rows, int64_t of_columns)
      : rows(of_rows), columns(of_columns), count(static_cast<size_t>(of_rows * of_columns), 0.0) {}
  double& at(int64_t row, int64_t column) { return count[static_cast<size_t>(row * columns + column)]; }
  double at(int64_t row, int64_t column) const { return count[static_cast<size_t>(row * columns + column)]; }
};

/// The slots of one token.
std::span<const int32_t> slots_of(const TraceLayer& layer, int64_t token) {
  const auto slots = static_cast<size_t>(layer.slots);
  return std::span(layer.expert).subspan(static_cast<size_t>(token) * slots, slots);
}

int64_t tokens_of(const TraceLayer& layer) { return layer.slots > 0 ? std::ssize(layer.expert) / layer.slots : 0; }

double plus(double bits, double share) { return share > 0 ? bits - share * std::log2(share) : bits; }

/// H(columns) and H(rows) + H(columns) − H(rows, columns).
Information information_of(const Pairs& pairs) {
  const double sum = std::accumulate(pairs.count.begin(), pairs.count.end(), 0.0);
  if (sum == 0) return {};
  std::vector<double> columns(static_cast<size_t>(pairs.columns), 0.0);
  double of_rows = 0, of_columns = 0, of_both = 0;
  for (int64_t row = 0; row < pairs.rows; ++row) {
    double in_row = 0;
    for (int64_t column = 0; column < pairs.columns; ++column) {
      const double count = pairs.at(row, column);
      in_row += count;
      columns[static_cast<size_t>(column)] += count;
      of_both = plus(of_both, count / sum);
    }
    of_rows = plus(of_rows, in_row / sum);
  }
  for (const double count : columns) of_columns = plus(of_columns, count / sum);
  return {.bits = std::max(0.0, of_rows + of_columns - of_both), .entropy = of_columns, .shuffled = 0};
}

/// The numbers from 0 on in an order drawn at random, the same at every call.
std::vector<int64_t> shuffled_places(int64_t size) {
  std::vector<int64_t> places(static_cast<size_t>(size));
  std::iota(places.begin(), places.end(), 0);
  std::mt19937_64 draw(1);  // not std::shuffle, whose order each library chooses
  for (size_t i = places.size(); i > 1; --i) std::swap(places[i - 1], places[draw() % i]);
  return places;
}

/// Counts with `add(pairs, a, b)` for each token and itself, and the same for each token and another.
template <class Add>
Information with_shuffled(int64_t tokens, const Pairs& empty, Add add) {
  Pairs pairs = empty, broken = empty;
  const std::vector<int64_t> other = shuffled_places(tokens);
  for (int64_t token = 0; token < tokens; ++token) {
    add(pairs, token, token);
    add(broken, other[static_cast<size_t>(token)], token);
  }
  Information information = information_of(pairs);
  information.shuffled = information_of(broken).bits;
  return information;
}

void add_pairs(Pairs& pairs, std::span<const int32_t> first, std::span<const int32_t> second) {
  for (const int32_t i : first) {
    if (i < 0) continue;
    for (const int32_t j : second) {
      if (j >= 0) ++pairs.at(i, j);
    }
  }
}

/// How many tokens took each expert.
std::vector<double> counts_of(const TraceLayer& layer) {
  std::vector<double> counts(layer.network.size(), 0.0);
  for (const int32_t expert : layer.expert) {
    if (expert >= 0) ++counts[static_cast<size_t>(expert)];
  }
  return counts;
}

}  // namespace

const std::array<const char*, kTokenClasses> kTokenClassNames = {"letters",     "digits",   "blanks",
                                                                 "punctuation", "controls", "not ASCII"};

size_t token_class(uint8_t byte) {
  const auto is_in = [byte](char first, char last) { return byte >= first && byte <= last; };
  if (is_in('a', 'z') || is_in('A', 'Z')) return 0;
  if (is_in('0', '9')) return 1;
  if (byte == ' ' || is_in('\t', '\r')) return 2;
  if (is_in('!', '~')) return 3;
  return byte < 0x80 ? 4 : 5;
}

Information token_information(const RoutingTrace& trace, const TraceLayer& layer) {
  const Pairs empty(std::ssize(trace.byte), layer.experts());
  return with_shuffled(trace.tokens(), empty, [&](Pairs& pairs, int64_t token, int64_t routed) {
    const int32_t id = trace.token[static_cast<size_t>(token)];
    add_pairs(pairs, std::span(&id, 1), slots_of(layer, routed));
  });
}

std::string why_incomparable(const RoutingTrace& a, const RoutingTrace& b) {
  if (a.tokens() != b.tokens()) return concat("one is of ", a.tokens(), " tokens, the other of ", b.tokens());
  if (a.token != b.token || a.call != b.call || a.sequence != b.sequence) return "their tokens are not the same";
  const auto same = [](const TraceLayer& x, const TraceLayer& y) {
    return x.layer == y.layer && x.experts() == y.experts();
  };
  if (std::equal(a.layers.begin(), a.layers.end(), b.layers.begin(), b.layers.end(), same)) return "";
  return "they have other layers or numbers of experts";
}

std::optional<Agreement> agreement(const TraceLayer& a, const TraceLayer& b) {
  const int64_t tokens = std::max(tokens_of(a), tokens_of(b));
  std::vector<uint8_t> taken(a.network.size(), 0);
  double common = 0, most = 0;
  for (int64_t token = 0; token < tokens; ++token) {
    int64_t in_a = 0, in_b = 0;
    for (const int32_t expert : slots_of(a, token)) {
      if (expert < 0) continue;
      taken[static_cast<size_t>(expert)] = 1;
      ++in_a;
    }
    for (const int32_t expert : slots_of(b, token)) {
      if (expert < 0) continue;
      common += taken[static_cast<size_t>(expert)];
      ++in_b;
    }
    most += static_cast<double>(std::max(in_a, in_b));
    for (const int32_t expert : slots_of(a, token)) {
      if (expert >= 0) taken[static_cast<size_t>(expert)] = 0;
    }
  }
  if (most == 0) return std::nullopt;
  const std::vector<double> of_a = counts_of(a), of_b = counts_of(b);
  const double expected = std::inner_product(of_a.begin(), of_a.end(), of_b.begin(), 0.0) / static_cast<double>(tokens);
  return Agreement{.overlap = common / most, .chance = expected / most};
}

std::vector<DropBucket> drops_by_place(const RoutingTrace& trace, const TraceLayer& layer, DropPlace place,
                                       int64_t buckets) {
  std::vector<int64_t> places(trace.token.size(), 0);
  for (size_t i = 0; i < places.size(); ++i) {
    const bool goes_on = i > 0 && trace.call[i] == trace.call[i - 1];
    places[i] = place == DropPlace::kRow ? trace.position[i] : goes_on ? places[i - 1] + 1 : 0;
  }
  if (places.empty()) return {};
  const int64_t most = *std::max_element(places.begin(), places.end()) + 1;
  const int64_t width = (most + buckets - 1) / buckets;
  std::vector<DropBucket> out;
  for (int64_t first = 0; first < most; first += width) {
    out.push_back({.first = first, .last = std::min(first + width, most) - 1});
  }
  for (size_t i = 0; i < layer.expert.size(); ++i) {
    if (layer.expert[i] < 0) continue;
    DropBucket& bucket = out[static_cast<size_t>(places[i / static_cast<size_t>(layer.slots)] / width)];
    ++bucket.assigned;
    bucket.dropped += layer.kept[i] == 0 ? 1 : 0;
  }
  return out;
}

std::array<ClassUse, kTokenClasses> use_by_class(const RoutingTrace& trace, const TraceLayer& layer) {
  std::array<ClassUse, kTokenClasses> out;
  const auto slots = static_cast<size_t>(layer.slots);
  for (size_t token = 0; token < trace.token.size(); ++token) {
    ClassUse& use = out[token_class(trace.byte[static_cast<size_t>(trace.token[token])])];
    ++use.tokens;
    for (size_t i = token * slots; i < (token + 1) * slots; ++i) {
      if (layer.kept[i] == 0) continue;
      ++use.computed;
      use.networks += layer.network[static_cast<size_t>(layer.expert[i])];
    }
  }
  return out;
}

std::vector<double> load_of(const TraceLayer& layer) {
  std::vector<double> load = counts_of(layer);
  const double sum = std::accumulate(load.begin(), load.end(), 0.0);
  for (double& share : load) share = sum > 0 ? share / sum : 0;
  return load;
}

std::optional<Redundancy> redundancy(const TraceLayer& layer) {
  if (layer.similarity.empty()) return std::nullopt;
  std::vector<int64_t> id;
  for (int64_t expert = 0; expert < layer.experts(); ++expert) {
    if (layer.network[static_cast<size_t>(expert)] == 1) id.push_back(expert);
  }
  const size_t n = id.size();
  Redundancy result{.mean = 0, .largest = -2, .first = id[0], .second = id[0], .distinct = 0};
  double squares = 0, sum = 0;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const double cosine = layer.similarity[i * n + j];
      squares += cosine * cosine;
      if (j <= i) continue;
      sum += cosine;
      if (cosine <= result.largest) continue;
      result.largest = cosine;
      result.first = id[i];
      result.second = id[j];
    }
  }
  if (n == 1) result.largest = 0;
  if (n > 1) result.mean = sum / (static_cast<double>(n * (n - 1)) / 2);
  result.distinct = squares > 0 ? static_cast<double>(n * n) / squares : 0;
  return result;
}

Affinity next_layer_affinity(const TraceLayer& layer, const TraceLayer& next, int64_t tokens) {
  Pairs pairs(layer.experts(), next.experts());
  for (int64_t token = 0; token < tokens; ++token) add_pairs(pairs, slots_of(layer, token), slots_of(next, token));
  Affinity affinity;
  affinity.information =
      with_shuffled(tokens, Pairs(pairs.rows, pairs.columns), [&](Pairs& counted, int64_t here, int64_t there) {
        add_pairs(counted, slots_of(layer, here), slots_of(next, there));
      });
  for (int64_t i = 0; i < pairs.rows; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < pairs.columns; ++j) sum += pairs.at(i, j);
    for (int64_t j = 0; j < pairs.columns; ++j) affinity.follows.push_back(sum > 0 ? pairs.at(i, j) / sum : 0);
  }
  return affinity;
}

}  // namespace smoe
