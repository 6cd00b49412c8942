#include "smoe/tensor/random_stream.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace smoe {

RandomStream RandomStream::without_values() { return {0, /*has_values=*/false}; }

RandomStream RandomStream::at(std::string_view name) const {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a: names only need to be told apart, philox does the mixing
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return at(hash);
}

at::Tensor RandomStream::normal(at::IntArrayRef sizes, double mean, double deviation) const {
  at::Tensor out = at::empty(sizes, at::device(has_values_ ? at::kCPU : at::kMeta));
  if (has_values_) fill_normal(out, mean, deviation);
  return out;
}

at::Tensor RandomStream::zeros(at::IntArrayRef sizes) const {
  return at::zeros(sizes, at::device(has_values_ ? at::kCPU : at::kMeta));
}

void RandomStream::fill_normal(const at::Tensor& out, double mean, double deviation) const {
  const at::NoGradGuard no_grad;
  // Drawn on the CPU in the tensor's dtype, so that every device starts from the same weights.
  at::Tensor draw = at::empty(out.sizes(), out.options().device(at::kCPU));
  draw.normal_(mean, deviation, at::make_generator<at::CPUGeneratorImpl>(key_));
  out.copy_(draw);
}

at::Tensor RandomStream::uniform_rows(const at::Tensor& rows, int64_t columns) const {
  const at::Tensor row = rows.to(at::kCPU, at::kLong).contiguous();
  const at::Tensor out = at::empty({row.numel(), columns}, at::kFloat);
  const int64_t* ids = row.const_data_ptr<int64_t>();
  float* values = out.mutable_data_ptr<float>();
  at::parallel_for(0, row.numel(), /*grain_size=*/64, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t c = 0; c < columns; c += 4) {
        const PhiloxBlock block = philox(key_, static_cast<uint64_t>(ids[t]), static_cast<uint64_t>(c / 4));
        for (int64_t i = c; i < std::min(c + 4, columns); ++i) {
          // 24 bits, which fp32 holds exactly and which never round up to 1.
          values[t * columns + i] = static_cast<float>(block[static_cast<size_t>(i - c)] >> 8) * 0x1.0p-24F;
        }
      }
    }
  });
  return out.to(rows.device());
}

double RandomStream::uniform(uint64_t index) const {
  const PhiloxBlock block = philox(key_, index, 0);
  return uniform_double(block[0], block[1]);
}

}  // namespace smoe
