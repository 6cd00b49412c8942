#include "tests/moe/example_router.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "smoe/base/file.h"
#include "tests/base/temp_folder.h"
#include "tests/moe/router_case.h"

namespace smoe {
namespace {

TEST(ExampleRouter, IsWhatContributingShows) {
  const std::filesystem::path here = __FILE__, root = here.parent_path().parent_path().parent_path();
  const std::string code = read_file(here.parent_path() / "example_router.cpp");
  ASSERT_GT(code.size(), 500u);
  EXPECT_NE(read_file(root / "CONTRIBUTING.md").find("```cpp\n" + code + "```\n"), std::string::npos)
      << "CONTRIBUTING.md and tests/moe/example_router.cpp must say the same";
}

TEST(ExampleRouter, GoesInCycles) {
  MoeConfig config;
  config.experts = 5;
  const auto router = cycle_kind().make(config, testing::kRouterWidth, RandomStream(1));
  RouteInput input = testing::router_input(testing::router_tokens(7), {.k = 2});
  input.batch.position = torch::arange(7);
  const Routing routing = router->route(input);
  EXPECT_TRUE(torch::equal(routing.expert,
                           torch::tensor({{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 0}, {0, 1}, {1, 2}}, torch::kInt32)));
  input.batch.position = at::Tensor();
  EXPECT_NE(message_of([&] { router->route(input); }).find("RouteInput.batch.position"), std::string::npos);
}

}  // namespace
}  // namespace smoe
