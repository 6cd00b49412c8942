#include "smoe/base/event_log.h"

#include <array>
#include <bit>
#include <optional>

#include "smoe/base/error.h"
#include "smoe/base/file.h"

namespace smoe {
namespace {

constexpr const char* kVersion2 = "brain.Event:2";
constexpr size_t kHeaderSize = 12;  // length, its checksum
constexpr size_t kTrailerSize = 4;  // the data's checksum

// Field numbers of the messages Event, Summary and Summary.Value, and what protobuf calls wire types.
constexpr uint32_t kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kValue = 1, kTag = 1, kSimpleValue = 2;
constexpr uint32_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

template <class Unsigned>
void put_fixed(std::string& out, Unsigned value) {
  for (size_t byte = 0; byte < sizeof value; ++byte) out += static_cast<char>((value >> (8 * byte)) & 0xFF);
}

template <class Unsigned>
Unsigned get_fixed(std::string_view bytes) {
  Unsigned value = 0;
  for (size_t byte = 0; byte < sizeof value; ++byte) {
    value |= static_cast<Unsigned>(static_cast<unsigned char>(bytes[byte])) << (8 * byte);
  }
  return value;
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  out += static_cast<char>(value);
}

void put_key(std::string& out, uint32_t field, uint32_t type) { put_varint(out, field << 3 | type); }

void put_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string event_header(int64_t step, double wall_time) {
  std::string event;
  put_key(event, kWallTime, kFixed64);
  put_fixed(event, std::bit_cast<uint64_t>(wall_time));
  put_key(event, kStep, kVarint);
  put_varint(event, static_cast<uint64_t>(step));
  return event;
}

/// Takes a varint from the front of `bytes`; nothing where they end in it or it has more than 64 bits.
std::optional<uint64_t> take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    if (shift == 63 && byte > 1) return std::nullopt;
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

/// The step of an Event, 0 where it says none; nothing where the bytes are no message.
std::optional<int64_t> step_of(std::string_view event) {
  uint64_t step = 0;
  while (!event.empty()) {
    const std::optional<uint64_t> key = take_varint(event);
    if (!key) return std::nullopt;
    std::optional<uint64_t> size = 0;
    switch (*key & 7) {
      case kVarint: {
        const std::optional<uint64_t> value = take_varint(event);
        if (!value) return std::nullopt;
        if (*key >> 3 == kStep) step = *value;
        break;
      }
      case kFixed64: size = 8; break;
      case kFixed32: size = 4; break;
      case kBytes: size = take_varint(event); break;
      default: return std::nullopt;
    }
    if (!size || *size > event.size()) return std::nullopt;
    event.remove_prefix(*size);
  }
  return static_cast<int64_t>(step);
}

/// How many bytes of the log at `path` are whole records up to the first with a step greater than `keep_through`.
uint64_t size_of_records(const std::filesystem::path& path, int64_t keep_through) {
  const MappedFile file(path);
  const std::string_view text = as_text(file.bytes());
  const auto damaged = [&](size_t place) {
    return concat(path.string(), ": is damaged at byte ", place,
                  "; it holds nothing that metrics.jsonl does not, so move it away to begin another");
  };
  size_t begin = 0;
  while (text.size() - begin >= kHeaderSize) {
    const std::string_view record = text.substr(begin);
    require(masked_crc32c(record.substr(0, 8)) == get_fixed<uint32_t>(record.substr(8)), damaged(begin));
    const auto size = get_fixed<uint64_t>(record);
    const uint64_t room = record.size() - kHeaderSize;
    if (room < kTrailerSize || size > room - kTrailerSize) return begin;  // cut off while it was written
    const std::string_view event = record.substr(kHeaderSize, size);
    require(masked_crc32c(event) == get_fixed<uint32_t>(record.substr(kHeaderSize + size)), damaged(begin));
    const std::optional<int64_t> step = step_of(event);
    require(step && (begin > 0 || event.find(kVersion2) != std::string_view::npos), damaged(begin));
    if (*step > keep_through) return begin;
    begin += kHeaderSize + size + kTrailerSize;
  }
  return begin;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t value = byte;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82F63B78u : 0u);
      table[byte] = value;
    }
    return table;
  }();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF];
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; }

EventLog::EventLog(const std::filesystem::path& path, int64_t keep_through) {
  const bool exists = keep_through >= 0 && is_there(path);
  const uint64_t kept = exists ? size_of_records(path, keep_through) : 0;
  if (exists) truncate_file(path, kept);
  file_ = std::make_unique<FileWriter>(path, /*append=*/exists);
  if (kept > 0) return;
  std::string event = event_header(0, 0);
  put_bytes(event, kFileVersion, kVersion2);
  append(event);
}

void EventLog::write(int64_t step, double wall_time, const Scalars& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    put_bytes(value, kTag, tag);
    put_key(value, kSimpleValue, kFixed32);
    put_fixed(value, std::bit_cast<uint32_t>(static_cast<float>(number)));
    put_bytes(summary, kValue, value);
  }
  std::string event = event_header(step, wall_time);
  put_bytes(event, kSummary, summary);
  append(event);
}

void EventLog::append(const std::string& event) {
  std::string record;
  put_fixed(record, uint64_t{event.size()});
  put_fixed(record, masked_crc32c(record));
  record += event;
  put_fixed(record, masked_crc32c(event));
  file_->write(record);
}

void EventLog::sync() { file_->sync(); }

}  // namespace smoe
