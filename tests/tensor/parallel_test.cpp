// at::parallel_for is a template: without OpenMP's flag it compiles too, and runs on one thread.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace smoe {
namespace {

TEST(Parallel, OurLoopsRunOnAllThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::vector<std::thread::id> thread(2);
  at::parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) thread[static_cast<size_t>(i)] = std::this_thread::get_id();
  });
  at::set_num_threads(before);
  EXPECT_NE(thread[0], thread[1]);
}

}  // namespace
}  // namespace smoe
