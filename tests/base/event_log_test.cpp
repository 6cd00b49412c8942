#include "smoe/base/event_log.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

TEST(Crc32c, PublishedValues) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
}

class EventLogFile : public ::testing::Test {
 protected:
  EventLogFile() {
    EventLog log(path_, -1);
    sizes_.push_back(std::filesystem::file_size(path_));
    for (int64_t step : {10, 10, 20, 300}) {
      log.write(step, 1.5, {{"train/loss", 2.5}, {"valid", -1e300}});
      sizes_.push_back(std::filesystem::file_size(path_));
    }
    whole_ = read_file(path_);
  }
  uint64_t size() const { return std::filesystem::file_size(path_); }

  TempFolder folder_;
  const std::filesystem::path path_ = folder_ / "events";
  std::vector<uint64_t> sizes_;  // after the version and after each event
  std::string whole_;
};

TEST_F(EventLogFile, ResumingCutsLaterEvents) {
  for (const auto& [keep, events] : {std::pair{300, 4}, {299, 3}, {20, 3}, {10, 2}, {9, 0}, {0, 0}}) {
    folder_.put("events", whole_);
    EventLog(path_, keep);
    EXPECT_EQ(size(), sizes_[static_cast<size_t>(events)]) << keep;
  }
  folder_.put("events", whole_);
  EventLog(path_, 10).write(20, 1.5, {{"train/loss", 2.5}, {"valid", -1e300}});
  EXPECT_EQ(read_file(path_), whole_.substr(0, sizes_[3]));
}

TEST_F(EventLogFile, ARecordThatIsNotWholeIsCut) {
  for (uint64_t length = 0; length < whole_.size(); ++length) {
    folder_.put("events", whole_.substr(0, length));
    EventLog(path_, 1000);
    const auto next = std::upper_bound(sizes_.begin(), sizes_.end(), length);
    // Of a file that is shorter than its first record nothing is left, and it is begun anew.
    EXPECT_EQ(size(), next == sizes_.begin() ? sizes_[0] : *(next - 1)) << length;
  }
}

TEST_F(EventLogFile, DamageIsRefusedByName) {
  for (size_t place = 0; place < whole_.size(); ++place) {
    std::string damaged = whole_;
    damaged[place] = static_cast<char>(damaged[place] ^ 0x10);
    folder_.put("events", damaged);
    EXPECT_NE(message_of([&] { EventLog(path_, 1000); }).find("events: is damaged at byte"), std::string::npos)
        << place;
    EXPECT_EQ(read_file(path_), damaged);
  }
  folder_.put("events", "not such a log, but longer than a header");
  EXPECT_NE(message_of([&] { EventLog(path_, 1000); }).find("is damaged at byte 0"), std::string::npos);
}

TEST_F(EventLogFile, AnotherRunBeginsAnew) {
  EventLog(path_, -1);
  EXPECT_EQ(size(), sizes_[0]);
}

}  // namespace
}  // namespace smoe
