// Readers in several threads at once: each has its own files and nothing in common, which the thread sanitizer checks.
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <thread>

#include "smoe/base/file.h"
#include "tests/formats/readers.h"

namespace smoe {
namespace {

TEST(Threads, ReadersShareNothing) {
  constexpr size_t kThreads = 4;
  const std::filesystem::path broken = std::filesystem::path(__FILE__).parent_path() / "broken";
  std::array<std::map<std::string, std::string>, kThreads> faults;  // of each thread, by format and file
  std::array<std::thread, kThreads> threads;
  for (size_t i = 0; i < kThreads; ++i) {
    threads[i] = std::thread([&broken, &own = faults[i]] {
      for (const Format& format : formats()) {
        const FormatPlace place(format);
        for (const auto& entry : std::filesystem::directory_iterator(broken / format.name)) {
          own[format.name + ("/" + entry.path().filename().string())] = place.fault(read_file(entry.path()));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(faults[0].size(), 300u);
  for (size_t i = 1; i < kThreads; ++i) EXPECT_EQ(faults[i], faults[0]);
}

}  // namespace
}  // namespace smoe
