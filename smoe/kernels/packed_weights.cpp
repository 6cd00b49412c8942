#include "smoe/kernels/packed_weights.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/UndefinedTensorImpl.h>

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "smoe/kernels/block_tiles.h"
#include "smoe/kernels/moe_mlp.h"
#include "smoe/kernels/row_passes.h"

namespace smoe {
namespace {

constexpr size_t kCached = 1u << 20;  // bytes of a packed weight that the near caches may well hold until it is read

template <class T>
void pack_into(const at::Tensor& w, WeightUse use, at::Tensor& out) {
  const bool forward = use == WeightUse::kForward;
  const int64_t E = w.size(0), K = w.size(forward ? 2 : 1);
  const int64_t parts = out.size(1), blocks = out.size(2), N = w.size(forward ? 1 : 2) / parts;
  const int64_t stride_k = w.stride(forward ? 2 : 1), stride_n = w.stride(forward ? 1 : 2);
  const bool same = w.scalar_type() == out.scalar_type();
  const char* from = static_cast<const char*>(w.const_data_ptr());
  T* to = static_cast<T*>(out.mutable_data_ptr());
  // Columns next to each other in memory are packed together, many of a row: rows are pages apart.
  const int64_t together = std::clamp<int64_t>(blocks, 1, stride_n == 1 ? 16 : 1), items = ceil_div(blocks, together);
  at::parallel_for(0, E * parts * items, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = i % items * together, part = i / items, first = block * kPackedColumns;
      const int64_t offset = part / parts * w.stride(0) + (part % parts * N + first) * stride_n;
      row_passes<T>().pack(from + offset * w.element_size(), same, K, std::min(together * kPackedColumns, N - first),
                           stride_k, stride_n, to + (part * blocks + block) * out.stride(2));
    }
  });
}

/// Room for what pack_weights gives: `old` where that is defined and has the shape.
at::Tensor room_for(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type, at::Tensor old) {
  const bool forward = use == WeightUse::kForward;
  const int64_t K = w.size(forward ? 2 : 1), N = w.size(forward ? 1 : 2) / parts;
  const int64_t blocks = ceil_div(N, kPackedColumns);
  const std::array<int64_t, 5> shape = {w.size(0), parts, blocks, packed_rows(K, type), kPackedColumns};
  if (old.defined() && old.sizes() == at::IntArrayRef(shape)) return old;
  return at::empty(shape, w.options().dtype(type).requires_grad(false));
}

at::Tensor pack(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type, at::Tensor old) {
  at::Tensor out = room_for(w, use, parts, type, std::move(old));
  if (type == at::kBFloat16) {
    pack_into<Bf16>(w, use, out);
  } else {
    pack_into<float>(w, use, out);
  }
  return out;
}

template <class T>
bool packs_both(const at::Tensor& w, int64_t parts) {
  constexpr int64_t kVector = 16;
  return row_passes<T>().pack_both != nullptr && w.numel() > 0 && w.stride(2) == 1 &&
         w.size(1) % (kVector * parts) == 0 && w.size(2) % kVector == 0;
}

template <class T>
void pack_both_into(const at::Tensor& w, at::Tensor& forward, at::Tensor& backward) {
  const int64_t E = w.size(0), parts = forward.size(1), blocks = forward.size(2), N = w.size(1) / parts;
  const bool same = w.scalar_type() == forward.scalar_type(), stream = forward.nbytes() > kCached;
  const char* from = static_cast<const char*>(w.const_data_ptr());
  T *to_forward = static_cast<T*>(forward.mutable_data_ptr()),
    *to_backward = static_cast<T*>(backward.mutable_data_ptr());
  at::parallel_for(0, E * parts * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t e = i / (parts * blocks), first = i % blocks * kPackedColumns, row = i / blocks % parts * N + first;
      row_passes<T>().pack_both(from + (e * w.stride(0) + row * w.stride(1)) * w.element_size(), same,
                                std::min(kPackedColumns, N - first), w.size(2), w.stride(1), stream,
                                to_forward + i * forward.stride(2),
                                to_backward + e * backward.stride(0) + row * kPackedColumns, backward.stride(2));
    }
  });
}

/// The bits of some fp32 numbers of an expert, from places all over its matrix; all zero past a small one's.
constexpr int64_t kSampled = 16;
using Sample = std::array<uint32_t, kSampled>;

template <class T>
Sample sample(const at::Tensor& w, int64_t e) {
  constexpr int64_t kStride = 7919;  // a prime, so that a share's beginning, middle and end are met alike
  const T* data = w.const_data_ptr<T>() + e * w.stride(0);
  const int64_t columns = w.size(2), size = w.size(1) * columns;
  Sample out{};
  for (int64_t i = 0; i < std::min(kSampled, size); ++i) {
    const int64_t share = std::max<int64_t>(1, size / kSampled), at = i * share + i * kStride % share;
    const float number = data[at / columns * w.stride(1) + at % columns * w.stride(2)];
    out[static_cast<size_t>(i)] = std::bit_cast<uint32_t>(number);
  }
  return out;
}

Sample sample(const at::Tensor& w, int64_t e) {
  return w.scalar_type() == at::kBFloat16 ? sample<c10::BFloat16>(w, e) : sample<float>(w, e);
}

std::vector<Sample> sample_all(const at::Tensor& w) {
  std::vector<Sample> out;
  for (int64_t e = 0; e < w.size(0); ++e) out.push_back(sample(w, e));
  return out;
}

struct Entry {
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> source;
  int64_t version;
  const void* data;
  std::vector<int64_t> sizes;
  std::vector<Sample> samples;  // [E]
  at::Tensor packed;
};

/// What was packed, by tensor, use and dtype. An entry does not keep its tensor alive.
class Cache {
 public:
  at::Tensor get(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type, ReadExperts read) {
    const std::scoped_lock lock(mutex_);
    const Key key{w.unsafeGetTensorImpl(), use, parts, type};
    if (++calls_ % kSweep == 0) forget_the_dead();
    if (has(key, w, read)) return entries_.at(key).packed;
    at::Tensor old = take(key);
    forget_the_dead();
    return keep(key, w, pack(w, use, parts, type, std::move(old)));
  }

  void forget_all() {
    const std::scoped_lock lock(mutex_);
    entries_.clear();
  }

  /// Sees to it that there is what get() gives for both passes, if neither of them is there.
  template <class T>
  void make_both(const at::Tensor& w, int64_t parts, at::ScalarType type) {
    const std::scoped_lock lock(mutex_);
    const Key forward{w.unsafeGetTensorImpl(), WeightUse::kForward, parts, type};
    const Key backward{w.unsafeGetTensorImpl(), WeightUse::kBackward, 1, type};
    if (has(forward, w) || has(backward, w)) return;
    at::Tensor to_forward = room_for(w, WeightUse::kForward, parts, type, take(forward));
    at::Tensor to_backward = room_for(w, WeightUse::kBackward, 1, type, take(backward));
    forget_the_dead();
    pack_both_into<T>(w, to_forward, to_backward);
    keep(forward, w, std::move(to_forward));
    keep(backward, w, std::move(to_backward));
  }

 private:
  using Key = std::tuple<const c10::TensorImpl*, WeightUse, int64_t, at::ScalarType>;

  bool has(const Key& key, const at::Tensor& w, ReadExperts read = std::nullopt) const {
    const auto found = entries_.find(key);
    return found != entries_.end() && is_current(found->second, w, read);
  }

  static bool is_current(const Entry& entry, const at::Tensor& w, ReadExperts read) {
    if (entry.source.expired() || entry.version != w._version() || entry.data != w.const_data_ptr()) return false;
    if (w.sizes() != at::IntArrayRef(entry.sizes)) return false;
    const auto unchanged = [&](int64_t e) { return entry.samples[static_cast<size_t>(e)] == sample(w, e); };
    if (read.has_value()) return std::all_of(read->begin(), read->end(), unchanged);
    for (int64_t e = 0; e < w.size(0); ++e) {
      if (!unchanged(e)) return false;
    }
    return true;
  }

  /// Takes out an entry. The copy's memory serves again where nobody else holds it: new pages cost as much as the packing.
  /// Two copies are never kept at once.
  at::Tensor take(const Key& key) {
    const auto found = entries_.find(key);
    if (found == entries_.end()) return {};
    at::Tensor old = found->second.packed.use_count() == 1 ? std::move(found->second.packed) : at::Tensor();
    entries_.erase(found);
    return old;
  }

  at::Tensor keep(const Key& key, const at::Tensor& w, at::Tensor packed) {
    const auto weak = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>(w.getIntrusivePtr());
    return entries_
        .emplace(key, Entry{weak, w._version(), w.const_data_ptr(), w.sizes().vec(), sample_all(w), std::move(packed)})
        .first->second.packed;
  }

  void forget_the_dead() {
    std::erase_if(entries_, [](const auto& item) { return item.second.source.expired(); });
  }

  static constexpr uint64_t kSweep = 256;  // calls

  std::mutex mutex_;
  std::map<Key, Entry> entries_;
  uint64_t calls_ = 0;
};

Cache& cache() {
  static Cache the_one;
  return the_one;
}

}  // namespace

void forget_packed_weights() { cache().forget_all(); }

at::Tensor pack_weights(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type) {
  return pack(w, use, parts, type, {});
}

at::Tensor packed_weights(const at::Tensor& w, WeightUse use, int64_t parts, at::ScalarType type, ReadExperts read) {
  return w.is_inference() ? pack_weights(w, use, parts, type) : cache().get(w, use, parts, type, read);
}

at::Tensor packed_training_weights(const at::Tensor& w, int64_t parts, at::ScalarType type) {
  if (!w.is_inference() && type == at::kBFloat16 && packs_both<Bf16>(w, parts)) cache().make_both<Bf16>(w, parts, type);
  if (!w.is_inference() && type == at::kFloat && packs_both<float>(w, parts)) cache().make_both<float>(w, parts, type);
  return packed_weights(w, WeightUse::kForward, parts, type);
}

double packed_bytes(int64_t experts, int64_t parts, int64_t K, int64_t N, at::ScalarType type) {
  const int64_t columns = round_up(N / parts, kPackedColumns);
  return static_cast<double>(experts * parts) * static_cast<double>(columns) *
         static_cast<double>(packed_rows(K, type)) * static_cast<double>(c10::elementSize(type));
}

}  // namespace smoe
