// Philox4x32-10, the counter-based random function of Salmon et al. (SC 2011): random bits as a pure function of a key
// and a counter, so that a mask or a draw depends on where it is used and never on what ran before.
#pragma once

#include <array>
#include <cstdint>

namespace smoe {

using PhiloxBlock = std::array<uint32_t, 4>;

/// Four random words for a 64-bit key and a 128-bit counter.
constexpr PhiloxBlock philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  constexpr uint32_t kMultiply0 = 0xD2511F53u, kMultiply1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kMultiply0) * c0, p1 = static_cast<uint64_t>(kMultiply1) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return {c0, c1, c2, c3};
}

/// A key for a named use inside another key's stream: different `use`s give unrelated streams.
constexpr uint64_t derive_key(uint64_t key, uint64_t use) {
  const PhiloxBlock block = philox(key, use, 0x736d6f65u /* "smoe": apart from every counter in use */);
  return (static_cast<uint64_t>(block[1]) << 32) | block[0];
}

/// The threshold t for which "word < t" has the probability p, to 2^-32; p in [0, 1].
constexpr uint64_t bernoulli_threshold(double p) { return static_cast<uint64_t>(p * 4294967296.0 + 0.5); }

/// A double uniform in [0, 1) from two words, with 53 random bits.
constexpr double uniform_double(uint32_t low, uint32_t high) {
  return static_cast<double>(((static_cast<uint64_t>(high) << 32) | low) >> 11) * 0x1.0p-53;
}

}  // namespace smoe
