// Names for what LibTorch's profiler sees.
#pragma once

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>

namespace smoe {

/// Names the operators until the end of a block as one part of the model ("smoe.attention") for LibTorch's profiler; costs
/// nothing where none runs. The part carries the number of the next node of autograd, so that what the backward pass does
/// for it can be told too (bench/profile.cpp). Of nested parts the inner one counts.
class ProfiledPart {
 public:
  explicit ProfiledPart(const char* name) : record_(at::RecordScope::USER_SCOPE) {
    if (record_.isActive()) record_.before(name, static_cast<int64_t>(at::sequence_number::peek()));
  }
  ~ProfiledPart() = default;
  ProfiledPart(const ProfiledPart&) = delete;
  ProfiledPart& operator=(const ProfiledPart&) = delete;

 private:
  at::RecordFunction record_;
};

}  // namespace smoe
