#include "smoe/base/sha256.h"

namespace smoe {

std::string hexadecimal(const std::array<unsigned char, 32>& digest) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string sha256_hex(Bytes bytes) {
  Sha256 digest;
  digest.update(bytes);
  return digest.finish();
}

std::string sha256_file(const std::filesystem::path& path) { return sha256_hex(MappedFile(path).bytes()); }

}  // namespace smoe
