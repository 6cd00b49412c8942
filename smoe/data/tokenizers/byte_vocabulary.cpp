#include "smoe/data/tokenizers/byte_vocabulary.h"

#include <algorithm>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/quote.h"

namespace smoe {

ByteVocabulary ByteVocabulary::bytes() {
  ByteVocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary.byte_of_.push_back(static_cast<uint8_t>(byte));
  vocabulary.index();
  return vocabulary;
}

ByteVocabulary ByteVocabulary::enwik8(const std::vector<Bytes>& parts) {
  std::array<uint64_t, 256> count{};
  ByteVocabulary vocabulary;
  vocabulary.format_ = "enwik8";
  vocabulary.drops_newlines_ = true;
  for (const Bytes part : parts) {
    for (const std::byte b : part) {
      const auto byte = std::to_integer<uint8_t>(b);
      if (byte != '\n' && count[byte]++ == 0) vocabulary.byte_of_.push_back(byte);  // in order of first appearance
    }
  }
  std::stable_sort(vocabulary.byte_of_.begin(), vocabulary.byte_of_.end(),
                   [&](uint8_t a, uint8_t b) { return count[a] > count[b]; });
  vocabulary.index();
  return vocabulary;
}

ByteVocabulary ByteVocabulary::from_json(const nlohmann::ordered_json& json, const std::string& source) {
  require(json.is_object() && json.contains("format") && json["format"].is_string() && json.contains("bytes") &&
              json["bytes"].is_array() && json.size() == 2,
          source, ": a tokenizer is {\"format\": …, \"bytes\": […]}");
  ByteVocabulary vocabulary;
  vocabulary.format_ = json["format"].get<std::string>();
  require(vocabulary.format_ == "bytes" || vocabulary.format_ == "enwik8", source, ": tokenizer format ",
          quoted_name(vocabulary.format_), " is not known; known: bytes, enwik8");
  vocabulary.drops_newlines_ = vocabulary.format_ == "enwik8";
  std::array<bool, 256> seen{};
  for (const auto& entry : json["bytes"]) {
    const int64_t byte = entry.is_number_integer() ? entry.get<int64_t>() : -1;
    require(byte >= 0 && byte < 256, source, ": tokenizer bytes must be integers from 0 to 255");
    require(!seen[static_cast<size_t>(byte)], source, ": the tokenizer lists byte ", byte, " twice");
    require(!vocabulary.drops(static_cast<uint8_t>(byte)), source,
            ": the enwik8 tokenizer lists byte 10, which is no token");
    seen[static_cast<size_t>(byte)] = true;
    vocabulary.byte_of_.push_back(static_cast<uint8_t>(byte));
  }
  require(vocabulary.drops_newlines_ || vocabulary.byte_of_ == bytes().byte_of_, source,
          ": a bytes tokenizer lists all bytes from 0 to 255 in order");
  vocabulary.index();
  return vocabulary;
}

nlohmann::ordered_json ByteVocabulary::to_json() const { return {{"format", format_}, {"bytes", byte_of_}}; }

std::vector<uint8_t> ByteVocabulary::encode(Bytes text, const std::string& source) const {
  std::vector<uint8_t> ids;
  ids.reserve(text.size());
  for (size_t offset = 0; offset < text.size(); ++offset) {
    const auto byte = std::to_integer<uint8_t>(text[offset]);
    if (drops(byte)) continue;
    if (id(byte) < 0) {
      char hex[8];
      std::snprintf(hex, sizeof hex, "0x%02X", byte);
      throw UserError(concat(source, ": byte ", hex, " at offset ", offset, " is not among the ", size(),
                             " symbols of the training text; data.format = \"bytes\" knows all 256"));
    }
    ids.push_back(static_cast<uint8_t>(id(byte)));
  }
  return ids;
}

void ByteVocabulary::index() {
  id_of_.fill(-1);
  for (size_t id = 0; id < byte_of_.size(); ++id) id_of_[byte_of_[id]] = static_cast<int16_t>(id);
}

}  // namespace smoe
