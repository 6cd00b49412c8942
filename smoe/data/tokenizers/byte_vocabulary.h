// Tokens that are bytes: all 256 of them, or those of a text in the enwik8 convention.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "smoe/base/file.h"

namespace smoe {

/// How a text becomes tokens. "bytes": token id = byte, 256 ids, every text is valid. "enwik8": the convention of the
/// published enwik8 numbers, in which line breaks vanish and ids go by falling frequency.
class ByteVocabulary {
 public:
  /// All bytes, each its own id.
  static ByteVocabulary bytes();

  /// The enwik8 convention over these parts of one text (train, valid, test): byte 10 is no token; the bytes that occur
  /// in any part get ids by falling frequency, ties by first appearance.
  static ByteVocabulary enwik8(const std::vector<Bytes>& parts);

  /// Reads what to_json wrote; throws UserError naming `source`.
  static ByteVocabulary from_json(const nlohmann::ordered_json& json, const std::string& source);
  nlohmann::ordered_json to_json() const;

  int64_t size() const { return static_cast<int64_t>(byte_of_.size()); }
  /// Whether every byte is its own id, so that a text is its own token sequence.
  bool is_identity() const { return !drops_newlines_ && size() == 256; }
  /// Whether `byte` vanishes instead of becoming a token.
  bool drops(uint8_t byte) const { return drops_newlines_ && byte == '\n'; }
  const std::string& format() const { return format_; }

  /// The id of a byte; −1 where it has none.
  int64_t id(uint8_t byte) const { return id_of_[byte]; }
  uint8_t byte(int64_t id) const { return byte_of_[static_cast<size_t>(id)]; }

  /// The ids of a text, one byte each (ids are below 256). Bytes that vanish are left out; a byte without an id throws
  /// UserError naming it, its offset and `source`.
  std::vector<uint8_t> encode(Bytes text, const std::string& source) const;

 private:
  std::string format_ = "bytes";
  bool drops_newlines_ = false;
  std::vector<uint8_t> byte_of_;
  std::array<int16_t, 256> id_of_{};

  void index();
};

}  // namespace smoe
