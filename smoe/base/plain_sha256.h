// SHA-256 (FIPS 180-4) written out, for builds without OpenSSL.
#pragma once

#include <array>
#include <cstdint>

#include "smoe/base/file.h"

namespace smoe {

class PlainSha256 {
 public:
  void update(Bytes bytes);
  /// Ends the digest.
  std::array<unsigned char, 32> finish();

 private:
  static constexpr size_t kBlock = 64;

  void take_block(const unsigned char* block);

  // §5.3.3: the first 32 bits of the fractional parts of the square roots of the first eight primes.
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, kBlock> rest_ = {};  // what does not yet fill a block
  uint64_t bytes_ = 0;
};

}  // namespace smoe
