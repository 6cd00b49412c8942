// The digest in builds without OpenSSL.
#include "smoe/base/plain_sha256.h"
#include "smoe/base/sha256.h"

namespace smoe {

struct Sha256::Impl {
  PlainSha256 digest;
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {}

Sha256::~Sha256() = default;

void Sha256::update(Bytes bytes) { impl_->digest.update(bytes); }

std::string Sha256::finish() { return hexadecimal(impl_->digest.finish()); }

}  // namespace smoe
