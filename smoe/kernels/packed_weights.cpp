#include "smoe/kernels/packed_weights.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/UndefinedTensorImpl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "smoe/kernels/row_passes.h"

namespace smoe {
namespace {

template <class T>
void pack_into(const at::Tensor& w, WeightUse use, at::Tensor& out) {
  const bool forward = use == WeightUse::kForward;
  const int64_t E = w.size(0), K = w.size(forward ? 2 : 1);
  const int64_t parts = out.size(1), blocks = out.size(2), N = w.size(forward ? 1 : 2) / parts;
  const int64_t stride_k = w.stride(forward ? 2 : 1), stride_n = w.stride(forward ? 1 : 2);
  const bool same = w.scalar_type() == out.scalar_type();
  const char* from = static_cast<const char*>(w.const_data_ptr());
  T* to = static_cast<T*>(out.mutable_data_ptr());
  at::parallel_for(0, E * parts * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t e = i / (parts * blocks), part = i / blocks % parts, first = i % blocks * kPackedColumns;
      const int64_t offset = e * w.stride(0) + (part * N + first) * stride_n;
      row_passes<T>().pack(from + offset * w.element_size(), same, K, std::min(kPackedColumns, N - first), stride_k,
                           stride_n, to + i * out.stride(2));
    }
  });
}

/// What pack_weights gives, in the memory of `out` where that is defined and has the shape.
at::Tensor pack(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type, at::Tensor out) {
  const bool forward = use == WeightUse::kForward;
  const int64_t K = w.size(forward ? 2 : 1), N = w.size(forward ? 1 : 2) / parts;
  const int64_t blocks = (N + kPackedColumns - 1) / kPackedColumns;
  const std::array<int64_t, 5> shape = {w.size(0), parts, blocks, packed_rows(K, type), kPackedColumns};
  if (out.defined() && out.sizes() != at::IntArrayRef(shape)) out.reset();
  if (!out.defined()) out = at::empty(shape, w.options().dtype(type).requires_grad(false));
  if (type == at::kBFloat16) {
    pack_into<Bf16>(w, use, out);
  } else {
    pack_into<float>(w, use, out);
  }
  return out;
}

/// Some numbers of each expert, from places all over its matrix.
std::vector<double> sample(const at::Tensor& w) {
  constexpr int64_t kPerExpert = 16;
  constexpr int64_t kStride = 7919;  // a prime, so that rows and columns are met alike
  const int64_t size = w.size(1) * w.size(2);
  std::vector<double> out;
  const auto take = [&](const auto* data) {
    for (int64_t e = 0; e < w.size(0); ++e) {
      for (int64_t i = 0; i < std::min(kPerExpert, size); ++i) {
        const int64_t at = (i * (size / kPerExpert) + i * kStride) % size;
        out.push_back(
            static_cast<double>(data[e * w.stride(0) + at / w.size(2) * w.stride(1) + at % w.size(2) * w.stride(2)]));
      }
    }
  };
  if (w.scalar_type() == at::kBFloat16) {
    take(w.const_data_ptr<c10::BFloat16>());
  } else {
    take(w.const_data_ptr<float>());
  }
  return out;
}

/// Equality that NaN has too.
bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

struct Entry {
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> source;
  int64_t version;
  const void* data;
  std::vector<double> sample;
  at::Tensor packed;
};

/// What was packed, by tensor, use and dtype. An entry does not keep its tensor alive.
class Cache {
 public:
  at::Tensor get(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type) {
    const std::scoped_lock lock(mutex_);
    const Key key{w.unsafeGetTensorImpl(), use, parts, type};
    const auto found = entries_.find(key);
    if (found != entries_.end() && is_current(found->second, w)) return found->second.packed;
    // The old copy's memory serves again where nobody else holds it: new pages cost as much as the packing. Two copies are
    // never kept at once.
    at::Tensor room;
    if (found != entries_.end() && found->second.packed.use_count() == 1) room = std::move(found->second.packed);
    entries_.erase(key);
    forget_the_dead();
    at::Tensor packed = pack(w, use, parts, type, std::move(room));
    entries_.emplace(key, Entry{c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>(w.getIntrusivePtr()),
                                w._version(), w.const_data_ptr(), sample(w), packed});
    return packed;
  }

 private:
  using Key = std::tuple<const c10::TensorImpl*, WeightUse, int64_t, at::ScalarType>;

  static bool is_current(const Entry& entry, const at::Tensor& w) {
    return !entry.source.expired() && entry.version == w._version() && entry.data == w.const_data_ptr() &&
           same(entry.sample, sample(w));
  }

  void forget_the_dead() {
    std::erase_if(entries_, [](const auto& item) { return item.second.source.expired(); });
  }

  std::mutex mutex_;
  std::map<Key, Entry> entries_;
};

}  // namespace

at::Tensor pack_weights(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type) {
  return pack(w, use, parts, type, {});
}

at::Tensor packed_weights(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type) {
  static Cache cache;
  return w.is_inference() ? pack_weights(w, use, parts, type) : cache.get(w, use, parts, type);
}

double packed_bytes(int64_t experts, int64_t parts, int64_t K, int64_t N, at::ScalarType type) {
  const int64_t width = N / parts, columns = (width + kPackedColumns - 1) / kPackedColumns * kPackedColumns;
  return static_cast<double>(experts * parts) * static_cast<double>(columns) *
         static_cast<double>(packed_rows(K, type)) * static_cast<double>(c10::elementSize(type));
}

}  // namespace smoe
