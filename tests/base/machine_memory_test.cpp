#include "smoe/base/machine_memory.h"

#include <gtest/gtest.h>

#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

/// A "/" with the files that say what memory there is.
class FakeRoot {
 public:
  FakeRoot() { put("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         5 kB\n"); }

  void put(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((folder_ / name).parent_path());
    folder_.put(name, text);
  }
  MemoryLimit limit() const { return memory_limit(folder_.path()); }

 private:
  TempFolder folder_;
};

TEST(MachineMemory, IsTheMachinesWhereNoGroupSaysLess) {
  const FakeRoot root;
  EXPECT_EQ(root.limit().bytes, 1024000);
  EXPECT_EQ(root.limit().source, "this machine");
  root.put("proc/self/cgroup", "0::/user/me\n");
  EXPECT_EQ(root.limit().bytes, 1024000) << "a group without files";
  root.put("sys/fs/cgroup/user/me/memory.max", "max\n");
  EXPECT_EQ(root.limit().bytes, 1024000);
  root.put("sys/fs/cgroup/user/me/memory.max", "9223372036854771712\n");
  EXPECT_EQ(root.limit().bytes, 1024000);
}

TEST(MachineMemory, TheLeastOfAllGroupsAboveCounts) {
  const FakeRoot root;
  root.put("proc/self/cgroup", "0::/user/me\n");
  root.put("sys/fs/cgroup/user/me/memory.max", "900000\n");
  EXPECT_EQ(root.limit().bytes, 900000);
  root.put("sys/fs/cgroup/user/memory.max", "700000\n");
  EXPECT_EQ(root.limit().bytes, 700000);
  EXPECT_TRUE(root.limit().source.ends_with("sys/fs/cgroup/user/memory.max")) << root.limit().source;
  root.put("sys/fs/cgroup/memory.max", "800000\n");
  EXPECT_EQ(root.limit().bytes, 700000);
}

TEST(MachineMemory, AContainerSeesItsGroupAsTheRoot) {
  const FakeRoot root;
  root.put("proc/self/cgroup", "0::/docker/4c11\n");
  root.put("sys/fs/cgroup/memory.max", "400000\n");
  EXPECT_EQ(root.limit().bytes, 400000);
}

TEST(MachineMemory, KnowsVersionOne) {
  const FakeRoot root;
  root.put("proc/self/cgroup", "9:cpuset,memory:/job\n4:cpu:/other\n0::/\n");
  root.put("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "300000\n");
  root.put("sys/fs/cgroup/memory/other/memory.limit_in_bytes", "100000\n");
  EXPECT_EQ(root.limit().bytes, 300000);
}

TEST(MachineMemory, SurvivesWhatItCannotRead) {
  const TempFolder empty;
  EXPECT_EQ(memory_limit(empty.path()).bytes, 0);
  const FakeRoot root;
  root.put("proc/self/cgroup", "no colon\n1:memory\n\n0::/a\n");
  root.put("sys/fs/cgroup/a/memory.max", "");
  root.put("sys/fs/cgroup/memory.max", "-5\n");
  EXPECT_EQ(root.limit().bytes, 1024000);
}

TEST(MachineMemory, ThisMachineHasSome) { EXPECT_GT(memory_limit().bytes, 100'000'000); }

TEST(BytesText, TakesTheUnitThatFits) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(1000), "1.0 kB");
  EXPECT_EQ(bytes_text(999'949'000), "999.9 MB");
  EXPECT_EQ(bytes_text(999'990'000), "1.0 GB");
  EXPECT_EQ(bytes_text(2.5e17), "250.0 PB");
}

}  // namespace
}  // namespace smoe
