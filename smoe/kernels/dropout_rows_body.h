// The text of fill_dropout, included once by each file that compiles it for an instruction set.
#pragma once

#include <cstring>

#include "smoe/kernels/dropout_rows_levels.h"

namespace smoe {
namespace {

// Philox blocks computed side by side: a compiler makes vectors of loops over so many, and unrolls shorter ones instead.
constexpr int64_t kSide = 32;

/// smoe/base/philox.h is the function in its plain form.
inline void fill_blocks(const DropoutWords& words, uint64_t first_block, float* __restrict out) {
  uint32_t c0[kSide], c1[kSide], c2[kSide], c3[kSide];
  for (int64_t i = 0; i < kSide; ++i) {
    const uint64_t block = first_block + static_cast<uint64_t>(i);
    c0[i] = static_cast<uint32_t>(block);
    c1[i] = static_cast<uint32_t>(block >> 32);
    c2[i] = static_cast<uint32_t>(words.high);
    c3[i] = static_cast<uint32_t>(words.high >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(words.key), k1 = static_cast<uint32_t>(words.key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int64_t i = 0; i < kSide; ++i) {
      const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0[i], p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = static_cast<uint32_t>(p1);
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int64_t i = 0; i < kSide; ++i) {
    out[4 * i] = c0[i] <= words.last_dropped ? 0.0f : words.scale;
    out[4 * i + 1] = c1[i] <= words.last_dropped ? 0.0f : words.scale;
    out[4 * i + 2] = c2[i] <= words.last_dropped ? 0.0f : words.scale;
    out[4 * i + 3] = c3[i] <= words.last_dropped ? 0.0f : words.scale;
  }
}

void fill_words(const DropoutWords& words, uint64_t first_block, int64_t count, float* out) {
  constexpr int64_t kWords = 4 * kSide;
  for (; count >= kWords; count -= kWords) {
    fill_blocks(words, first_block, out);
    first_block += kSide;
    out += kWords;
  }
  if (count == 0) return;
  float rest[kWords];
  fill_blocks(words, first_block, rest);
  std::memcpy(out, rest, static_cast<size_t>(count) * sizeof(float));
}

}  // namespace
}  // namespace smoe
