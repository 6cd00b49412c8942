// The safetensors format: an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
// then the tensors' bytes. Reader and writer know bytes, not tensors; tensor/tensor_io.h makes tensors of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "smoe/base/file.h"

namespace smoe {

/// One tensor of a file: `dtype` is the format's name (F32, BF16, I64, U8 …), `bytes` its little-endian row-major data,
/// which need not be aligned to the element.
struct TensorBytes {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  Bytes bytes;
};

/// Bytes of one element of a dtype of the format; 0 where the name is unknown.
size_t safetensors_element_size(std::string_view dtype);

/// A parsed header over bytes that stay the caller's. Refuses, with UserError naming `source`: a header that is longer
/// than the file or than 100 MB, JSON that is not an object of tensors, unknown or duplicate names in it, unknown
/// dtypes, negative, overflowing or more than 64-dimensional shapes, byte ranges that do not fit the shape, overlap,
/// leave holes, or end elsewhere than the file does, and BOOL data that are not 0 or 1.
struct SafetensorsView {
  std::vector<TensorBytes> tensors;             ///< in the order of their bytes
  std::map<std::string, std::string> metadata;  ///< the header's "__metadata__"

  std::vector<size_t> by_name;  ///< places in `tensors`, in the order of their names

  /// The tensor of that name, or nullptr.
  const TensorBytes* find(std::string_view name) const;
};

SafetensorsView parse_safetensors(Bytes file, const std::string& source);

/// Writes a file: tensors in the order given, the header padded so that the data starts at a multiple of 8 bytes;
/// fsync. The same input gives the same bytes. Throws UserError where a name comes twice or is not UTF-8, a dtype is
/// unknown, or bytes do not fit their shape.
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorBytes>& tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace smoe
