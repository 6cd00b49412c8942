// Several processes, played by one.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "smoe/tensor/process_group.h"

namespace smoe::testing {

/// One of `ranks` processes. They run one after the other: the first round notes what each hands in, call by call, the
/// second returns the sums.
class FakeGroup : public ProcessGroup {
 public:
  explicit FakeGroup(int64_t ranks) : handed_in_(static_cast<size_t>(ranks)) {}
  void become(int64_t rank, bool sums) {
    rank_ = rank;
    sums_ = sums;
    call_ = 0;
  }
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return static_cast<int64_t>(handed_in_.size()); }
  void all_reduce_sum(at::Tensor& values) const override {
    auto& own = handed_in_[static_cast<size_t>(rank_)];
    if (!sums_) {
      own.push_back(values.clone());
      return;
    }
    at::Tensor sum = torch::zeros_like(values);
    for (const auto& of_rank : handed_in_) sum += of_rank.at(call_);
    values.copy_(sum);
    ++call_;
  }

 private:
  mutable std::vector<std::vector<at::Tensor>> handed_in_;
  mutable size_t call_ = 0;
  int64_t rank_ = 0;
  bool sums_ = false;
};

}  // namespace smoe::testing
