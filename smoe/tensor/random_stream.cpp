#include "smoe/tensor/random_stream.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

namespace smoe {

RandomStream RandomStream::at(std::string_view name) const {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a: names only need to be told apart, philox does the mixing
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return at(hash);
}

void RandomStream::fill_normal(const at::Tensor& out, double mean, double deviation) const {
  const at::NoGradGuard no_grad;
  // Drawn on the CPU in the tensor's dtype, so that every device starts from the same weights.
  at::Tensor draw = at::empty(out.sizes(), out.options().device(at::kCPU));
  draw.normal_(mean, deviation, at::make_generator<at::CPUGeneratorImpl>(key_));
  out.copy_(draw);
}

double RandomStream::uniform(uint64_t index) const {
  const PhiloxBlock block = philox(key_, index, 0);
  return uniform_double(block[0], block[1]);
}

}  // namespace smoe
