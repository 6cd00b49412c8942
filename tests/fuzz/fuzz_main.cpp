// The fuzzer of the readers of files from outside: SMOE_FUZZ_FORMAT names the one that gets libFuzzer's inputs. What a
// reader may do with any input is in tests/formats/readers.h; all else (another exception, a sanitizer's finding, more
// time or memory than scripts/fuzz allows) is a crash, whose input libFuzzer saves.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "smoe/base/event_log.h"
#include "tests/formats/readers.h"

namespace {

std::string_view format_name() {
  const char* name = std::getenv("SMOE_FUZZ_FORMAT");
  return name != nullptr ? name : "";
}

const smoe::FormatPlace& place() {
  static const smoe::FormatPlace kPlace(smoe::find_format(format_name()));
  return kPlace;
}

/// Makes the checksums of an event log's records right, as far as their lengths lead: a reader that stops at each wrong
/// one would otherwise never be tried on what comes after it.
void mend_checksums(char* data, size_t size) {
  constexpr size_t kHeader = 12, kTrailer = 4;
  const auto put_checksum = [](char* to, std::string_view of) {
    const uint32_t checksum = smoe::masked_crc32c(of);
    std::memcpy(to, &checksum, sizeof checksum);
  };
  while (size >= kHeader) {
    uint64_t length = 0;
    std::memcpy(&length, data, sizeof length);
    put_checksum(data + sizeof length, {data, sizeof length});
    const size_t room = size - kHeader;
    if (room < kTrailer || length > room - kTrailer) return;
    put_checksum(data + kHeader + length, {data + kHeader, length});
    data += kHeader + length + kTrailer;
    size -= kHeader + length + kTrailer;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  place().fault({reinterpret_cast<const char*>(data), size});
  return 0;
}

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  const size_t changed = LLVMFuzzerMutate(data, size, max_size);
  if (format_name() == "events" && seed % 4 != 0) mend_checksums(reinterpret_cast<char*>(data), changed);
  return changed;
}
