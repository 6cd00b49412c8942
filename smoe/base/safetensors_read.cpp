// The reader of safetensors. It trusts nothing: every byte of the header is accounted for before a tensor is handed
// out.
#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <utility>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/quote.h"
#include "smoe/base/safetensors.h"
#include "smoe/base/safetensors_format.h"

namespace smoe {
namespace {

/// What the header says of one tensor.
struct HeaderEntry {
  std::string name, dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

/// Reads the header event by event: a JSON tree would silently keep one of two equal keys, and cost far more memory.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& source) : source_(source) {}

  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;

  bool null() override { refuse("null"); }
  bool boolean(bool value) override { refuse(value ? "true" : "false"); }
  bool number_integer(int64_t value) override { refuse(std::to_string(value)); }  // only negative ones come here
  bool number_float(double, const std::string& text) override { refuse(printable(text)); }
  bool binary(nlohmann::json::binary_t&) override { refuse("binary data"); }

  bool number_unsigned(uint64_t value) override {
    if (at_ != At::kShape && at_ != At::kOffsets) refuse(std::to_string(value));
    if (value > std::numeric_limits<int64_t>::max()) refuse(std::to_string(value));
    std::vector<int64_t>& list = at_ == At::kShape ? entries.back().shape : entries.back().offsets;
    const size_t limit = at_ == At::kShape ? kSafetensorsMaxDimensions : 2;
    require(list.size() < limit, where(), " has more than ", limit, " numbers");
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(std::string& value) override {
    if (at_ == At::kMetadata) {
      require(metadata.emplace(key_, value).second, where(), " comes twice");
    } else if (at_ == At::kTensor && key_ == "dtype") {
      require(!std::exchange(entries.back().has_dtype, true), where(), " comes twice");
      entries.back().dtype = value;
    } else {
      refuse("a string");
    }
    return true;
  }

  bool start_object(size_t) override {
    if (at_ == At::kStart) {
      at_ = At::kTop;
    } else if (at_ == At::kTop && name_ == kSafetensorsMetadata) {
      require(!std::exchange(has_metadata_, true), where(), " comes twice");
      at_ = At::kMetadata;
    } else if (at_ == At::kTop) {
      entries.emplace_back().name = name_;
      at_ = At::kTensor;
    } else {
      refuse("an object");
    }
    key_.clear();
    return true;
  }

  bool key(std::string& value) override {
    (at_ == At::kTop ? name_ : key_) = value;
    if (at_ == At::kTensor) {
      require(value == "dtype" || value == "shape" || value == "data_offsets", where(), " is not a key of the format");
    }
    return true;
  }

  bool end_object() override {
    if (at_ == At::kTensor) {
      const HeaderEntry& entry = entries.back();
      key_.clear();
      require(entry.has_dtype, where(), " has no dtype");
      require(entry.has_shape, where(), " has no shape");
      require(entry.offsets.size() == 2, where(), " needs data_offsets of two numbers");
    }
    at_ = at_ == At::kTop ? At::kStart : At::kTop;
    key_.clear();
    return true;
  }

  bool start_array(size_t) override {
    if (at_ != At::kTensor || (key_ != "shape" && key_ != "data_offsets")) refuse("an array");
    at_ = key_ == "shape" ? At::kShape : At::kOffsets;
    bool& seen = at_ == At::kShape ? entries.back().has_shape : entries.back().has_offsets;
    require(!std::exchange(seen, true), where(), " comes twice");
    return true;
  }

  bool end_array() override {
    at_ = At::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    throw UserError(concat(source_, ": the header is not valid JSON at its byte ", position));
  }

 private:
  enum class At { kStart, kTop, kMetadata, kTensor, kShape, kOffsets };

  /// "x.safetensors: 'w1': 'shape'", as far down as the reader is.
  std::string where() const {
    std::string text = source_ + ": ";
    if (at_ == At::kStart) return text + "the header";
    text += quoted_name(name_);
    if (at_ != At::kTop && !key_.empty()) text += ": " + quoted_name(key_);
    return text;
  }

  [[noreturn]] void refuse(const std::string& got) const {
    const char* wanted = "a JSON object";
    if (at_ == At::kMetadata || (at_ == At::kTensor && key_ == "dtype")) wanted = "a string";
    if (at_ == At::kTensor && key_ != "dtype") wanted = "an array of integers";
    if (at_ == At::kShape || at_ == At::kOffsets) wanted = "an array of non-negative 64-bit integers";
    throw UserError(concat(where(), " must be ", wanted, ", got ", got));
  }

  const std::string& source_;
  At at_ = At::kStart;
  std::string name_, key_;  // of the entry at the top, and inside it
  bool has_metadata_ = false;
};

/// The header's text; the data stand behind it.
std::string_view header_of(Bytes file, const std::string& source) {
  require(file.size() >= 8, source, ": is ", file.size(), " bytes, which is too short for a safetensors file");
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | std::to_integer<uint64_t>(file[i]);
  require(length <= kSafetensorsMaxHeader, source, ": is not a safetensors file, or damaged: its header would be ",
          length, " bytes, the format allows ", kSafetensorsMaxHeader);
  require(length <= file.size() - 8, source, ": is cut short: its header should be ", length, " bytes, ",
          file.size() - 8, " are there");
  const std::string_view header = as_text(file.subspan(8, static_cast<size_t>(length)));
  require(header.starts_with('{'), source, ": is not a safetensors file: its header does not begin with '{'");
  // To nlohmann's parser a NUL is the end, whatever stands behind it.
  const size_t nul = header.find('\0');
  require(nul == std::string_view::npos, source, ": the header is not valid JSON at its byte ", nul + 1);
  return header;
}

/// The tensor that `entry` describes; its bytes are checked against its own shape only.
TensorBytes to_tensor(HeaderEntry& entry, Bytes data, const std::string& source) {
  const std::string where = source + ": " + quoted_name(entry.name);
  const size_t element_size = safetensors_element_size(entry.dtype);
  require(element_size > 0, where, " has the unknown dtype ", quoted_name(entry.dtype));
  const std::optional<uint64_t> size = safetensors_byte_size(entry.shape, element_size);
  require(size.has_value(), where, " has a shape that overflows");
  const uint64_t begin = static_cast<uint64_t>(entry.offsets[0]), end = static_cast<uint64_t>(entry.offsets[1]);
  require(begin <= end && end <= data.size(), where, " has the bytes ", begin, " to ", end, ", the file has ",
          data.size(), " bytes of data");
  require(end - begin == *size, where, " has ", end - begin, " bytes, its shape and dtype need ", *size);
  const Bytes bytes = data.subspan(static_cast<size_t>(begin), static_cast<size_t>(*size));
  if (entry.dtype == "BOOL") {
    const bool good = std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b <= std::byte{1}; });
    require(good, where, " is BOOL and has bytes other than 0 and 1");
  }
  return {std::move(entry.name), std::move(entry.dtype), std::move(entry.shape), bytes};
}

/// Puts the tensors into the order of their bytes, which must follow each other from the first to the last.
void check_ranges(std::vector<TensorBytes>& tensors, Bytes data, const std::string& source) {
  const auto by_range = [](const TensorBytes& a, const TensorBytes& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  };
  std::stable_sort(tensors.begin(), tensors.end(), by_range);
  const std::byte* end = data.data();
  for (const TensorBytes& tensor : tensors) {
    const std::string_view fault =
        tensor.bytes.data() < end ? " overlaps the tensor before it" : " leaves a hole before it";
    require(tensor.bytes.data() == end, source, ": ", quoted_name(tensor.name), fault);
    end += tensor.bytes.size();
  }
  require(end == data.data() + data.size(), source, ": has ", data.data() + data.size() - end,
          " bytes after its last tensor");
}

}  // namespace

const TensorBytes* SafetensorsView::find(std::string_view name) const {
  const auto place = std::lower_bound(by_name.begin(), by_name.end(), name,
                                      [&](size_t i, std::string_view wanted) { return tensors[i].name < wanted; });
  return place != by_name.end() && tensors[*place].name == name ? &tensors[*place] : nullptr;
}

SafetensorsView parse_safetensors(Bytes file, const std::string& source) {
  const std::string_view header = header_of(file, source);
  const Bytes data = file.subspan(8 + header.size());
  HeaderReader reader(source);
  nlohmann::json::sax_parse(header.begin(), header.end(), &reader);

  SafetensorsView view;
  view.metadata = std::move(reader.metadata);
  view.tensors.reserve(reader.entries.size());
  for (HeaderEntry& entry : reader.entries) view.tensors.push_back(to_tensor(entry, data, source));
  check_ranges(view.tensors, data, source);

  view.by_name.resize(view.tensors.size());
  std::iota(view.by_name.begin(), view.by_name.end(), size_t{0});
  const auto name_of = [&](size_t i) -> const std::string& { return view.tensors[i].name; };
  std::sort(view.by_name.begin(), view.by_name.end(), [&](size_t a, size_t b) { return name_of(a) < name_of(b); });
  const auto twice = std::adjacent_find(view.by_name.begin(), view.by_name.end(),
                                        [&](size_t a, size_t b) { return name_of(a) == name_of(b); });
  if (twice != view.by_name.end()) {
    throw UserError(concat(source, ": ", quoted_name(name_of(*twice)), " comes twice"));
  }
  return view;
}

}  // namespace smoe
