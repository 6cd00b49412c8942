// The one text of read_sum, which each file compiles for its instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "bench/read_sum.h"

namespace smoe::bench {

uint64_t read_sum_avx2(const void* data, int64_t bytes);    // read_sum_avx2.cpp
uint64_t read_sum_avx512(const void* data, int64_t bytes);  // read_sum_avx512.cpp

namespace {

/// Vectors of `Bytes` bytes, eight sums side by side so that additions do not wait for each other.
template <int Bytes>
uint64_t read_sum_body(const void* data, int64_t bytes) {
  typedef uint64_t Vector __attribute__((vector_size(Bytes)));
  constexpr int64_t kSums = 8;
  static_assert(kReadStep % (kSums * Bytes) == 0);
  const char* at = static_cast<const char*>(data);
  const auto next = [&at] {
    Vector v;
    std::memcpy(&v, at, Bytes);
    at += Bytes;
    return v;
  };
  Vector a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{};
  for (const char* end = at + bytes; at < end;) {
    a += next();
    b += next();
    c += next();
    d += next();
    e += next();
    f += next();
    g += next();
    h += next();
  }
  const Vector all = ((a + b) + (c + d)) + ((e + f) + (g + h));
  uint64_t words[Bytes / 8], sum = 0;
  std::memcpy(words, &all, Bytes);
  for (const uint64_t word : words) sum += word;
  return sum;
}

}  // namespace
}  // namespace smoe::bench
