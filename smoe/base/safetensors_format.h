// What the reader and the writer of safetensors share.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace smoe {

inline constexpr std::string_view kSafetensorsMetadata = "__metadata__";
inline constexpr uint64_t kSafetensorsMaxHeader = 100'000'000;
inline constexpr size_t kSafetensorsMaxDimensions = 64;  // PyTorch's own limit

/// Bytes of a row-major tensor; nothing where a dimension is negative, or the product of those that are not zero
/// overflows int64 (an empty tensor has strides too).
std::optional<uint64_t> safetensors_byte_size(const std::vector<int64_t>& shape, size_t element_size);

}  // namespace smoe
