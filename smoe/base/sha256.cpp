#include "smoe/base/sha256.h"

#include <openssl/evp.h>

#include <array>

#include "smoe/base/error.h"

namespace smoe {
namespace {

void check(int result) {
  if (result != 1) throw Failure("SHA-256: OpenSSL's digest failed");
}

}  // namespace

struct Sha256::Impl {
  Impl() = default;
  ~Impl() { EVP_MD_CTX_free(context); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  EVP_MD_CTX* context = EVP_MD_CTX_new();
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  check(impl_->context != nullptr ? EVP_DigestInit_ex(impl_->context, EVP_sha256(), nullptr) : 0);
}

Sha256::~Sha256() = default;

void Sha256::update(Bytes bytes) { check(EVP_DigestUpdate(impl_->context, bytes.data(), bytes.size())); }

std::string Sha256::finish() {
  std::array<unsigned char, 32> digest = {};
  check(EVP_DigestFinal_ex(impl_->context, digest.data(), nullptr));
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
