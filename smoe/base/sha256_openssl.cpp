// The digest by OpenSSL, which uses what the processor has for it.
#include <openssl/evp.h>

#include "smoe/base/error.h"
#include "smoe/base/sha256.h"

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
  return hexadecimal(digest);
}

}  // namespace smoe
