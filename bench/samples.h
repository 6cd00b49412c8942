// Times of calls that are repeated: the middle and the spread.
#pragma once

#include <chrono>
#include <cstddef>
#include <utility>
#include <vector>

namespace smoe::bench {

/// Numbers of one kind, measured again and again.
class Samples {
 public:
  void add(double value) { values_.push_back(value); }
  size_t size() const { return values_.size(); }
  const std::vector<double>& values() const { return values_; }

  /// The value below which the share `q` in [0, 1] of the samples lies, between neighbours on a straight line; 0 where
  /// there are none.
  double quantile(double q) const;
  double median() const { return quantile(0.5); }

 private:
  std::vector<double> values_;
};

/// The seconds that `work` takes.
template <class Work>
double seconds_of(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  std::forward<Work>(work)();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace smoe::bench
