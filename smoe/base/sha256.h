// SHA-256 (FIPS 180-4) of bytes and files, in hexadecimal; by OpenSSL where the build has it (sha256_openssl.cpp), else
// written out (sha256_no_openssl.cpp).
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <string>

#include "smoe/base/file.h"

namespace smoe {

/// The digest of bytes that come in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void update(Bytes bytes);
  /// 64 lower-case hexadecimal digits. Ends the digest.
  std::string finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A digest in 64 lower-case digits.
std::string hexadecimal(const std::array<unsigned char, 32>& digest);

std::string sha256_hex(Bytes bytes);
/// Throws UserError where the file cannot be read.
std::string sha256_file(const std::filesystem::path& path);

}  // namespace smoe
