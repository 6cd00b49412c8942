// The writer of safetensors, and what it shares with the reader.
#include <algorithm>
#include <set>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/quote.h"
#include "smoe/base/safetensors.h"
#include "smoe/base/safetensors_format.h"

namespace smoe {
namespace {

/// One tensor's entry in the header.
std::string entry_text(const TensorBytes& tensor, uint64_t begin) {
  const nlohmann::ordered_json entry = {
      {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, begin + tensor.bytes.size()}}};
  return nlohmann::json(tensor.name).dump() + ":" + entry.dump();
}

void check_tensor(const TensorBytes& tensor, const std::string& where) {
  const size_t element_size = safetensors_element_size(tensor.dtype);
  require(element_size > 0, where, " has the unknown dtype ", quoted_name(tensor.dtype));
  require(tensor.shape.size() <= kSafetensorsMaxDimensions, where, " has more than ", kSafetensorsMaxDimensions,
          " dimensions");
  const std::optional<uint64_t> size = safetensors_byte_size(tensor.shape, element_size);
  require(size.has_value(), where, " has a negative dimension or overflows");
  require(*size == tensor.bytes.size(), where, " has ", tensor.bytes.size(), " bytes, its shape and dtype need ",
          *size);
}

/// The whole header, padded with spaces so that the data behind it and its length are aligned.
std::string header_text(const std::string& source, const std::vector<TensorBytes>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) text += concat('"', kSafetensorsMetadata, "\":", nlohmann::json(metadata).dump());
  std::set<std::string_view> names = {kSafetensorsMetadata};
  uint64_t begin = 0;
  for (const TensorBytes& tensor : tensors) {
    const std::string where = source + ": " + quoted_name(tensor.name);
    require(names.insert(tensor.name).second, where, " cannot be a tensor's name, or comes twice");
    check_tensor(tensor, where);
    if (text.size() > 1) text += ",";
    text += entry_text(tensor, begin);
    begin += tensor.bytes.size();
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  require(text.size() <= kSafetensorsMaxHeader, source, ": the header would be ", text.size(),
          " bytes, the format allows ", kSafetensorsMaxHeader);
  return text;
}

}  // namespace

size_t safetensors_element_size(std::string_view dtype) {
  for (const char* name : {"BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"}) {
    if (dtype == name) return 1;
  }
  for (const char* name : {"U16", "I16", "F16", "BF16"}) {
    if (dtype == name) return 2;
  }
  for (const char* name : {"U32", "I32", "F32"}) {
    if (dtype == name) return 4;
  }
  for (const char* name : {"U64", "I64", "F64"}) {
    if (dtype == name) return 8;
  }
  return 0;
}

std::optional<uint64_t> safetensors_byte_size(const std::vector<int64_t>& shape, size_t element_size) {
  int64_t extent = static_cast<int64_t>(element_size);
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(extent, std::max<int64_t>(size, 1), &extent)) return {};
    empty = empty || size == 0;
  }
  return empty ? 0 : static_cast<uint64_t>(extent);
}

void write_safetensors(const std::filesystem::path& path, const std::vector<TensorBytes>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::string header;
  try {
    header = header_text(path.string(), tensors, metadata);
  } catch (const nlohmann::json::type_error&) {
    throw UserError(concat(path.string(), ": a name or the metadata is not valid UTF-8"));
  }
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i));
  FileWriter file(path);
  file.write(length);
  file.write(header);
  for (const TensorBytes& tensor : tensors) file.write(tensor.bytes);
  file.finish();
}

}  // namespace smoe
