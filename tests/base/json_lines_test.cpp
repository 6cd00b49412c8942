#include "smoe/base/json_lines.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;

const std::string kLog = "{\"step\":1,\"loss\":2.5}\n{\"step\":2}\n{\"step\":2,\"split\":\"valid\"}\n{\"step\":3}\n";
const std::string kTwoSteps = kLog.substr(0, kLog.size() - 11);

/// What is left of `text` after it was opened to keep the steps through `step`.
std::string kept(const std::string& text, int64_t step) {
  const TempFolder folder;
  const std::filesystem::path path = folder.put("log", text);
  const JsonLines lines(path, step);
  return read_file(path);
}

TEST(JsonLines, WritesALineEach) {
  const TempFolder folder;
  JsonLines lines(folder / "log", -1);
  lines.write({{"step", 1}, {"loss", 2.5}});
  lines.write({{"step", 2}, {"text", "a\nb"}});
  lines.sync();
  EXPECT_EQ(read_file(folder / "log"), "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"text\":\"a\\nb\"}\n");
}

TEST(JsonLines, StartsAnEmptyLog) {
  EXPECT_EQ(kept(kLog, -1), "");
  const TempFolder folder;
  const JsonLines lines(folder / "new", 5);
  EXPECT_EQ(read_file(folder / "new"), "");
}

TEST(JsonLines, CutsStepsBehindTheCheckpoint) {
  EXPECT_EQ(kept(kLog, 0), "");
  EXPECT_EQ(kept(kLog, 2), kTwoSteps);
  EXPECT_EQ(kept(kLog, 3), kLog);
  EXPECT_EQ(kept(kLog, 100), kLog);
}

TEST(JsonLines, CutsALineThatIsNotWhole) {
  for (size_t size = kTwoSteps.size(); size < kLog.size(); ++size) EXPECT_EQ(kept(kLog.substr(0, size), 3), kTwoSteps);
  EXPECT_EQ(kept("{\"st", 3), "");
  EXPECT_EQ(kept(kLog + std::string(4096, '\0'), 3), kLog);  // what some file systems leave after a loss of power
}

TEST(JsonLines, ContinuesWhereItWasCut) {
  const TempFolder folder;
  const std::filesystem::path path = folder.put("log", kLog + "{\"step\":4");
  JsonLines lines(path, 2);
  lines.write({{"step", 3}});
  EXPECT_EQ(read_file(path), kLog);
}

TEST(JsonLines, RefusesALogThatIsNone) {
  const TempFolder folder;
  const std::string no_step = "is not a JSON object with an integer \"step\"";
  const std::pair<std::string, std::string> cases[] = {{"", "is not JSON at column 1"},
                                                       {"word", "is not JSON at column 1"},
                                                       {"3", no_step},
                                                       {"[1]", no_step},
                                                       {"{}", no_step},
                                                       {"{\"step\":\"1\"}", no_step},
                                                       {"{\"step\":1.5}", no_step},
                                                       {"{\"step\":1} x", "is not JSON at column 12"},
                                                       {"{\"step\":1,\"step\":1}", "'step' comes twice in one object"},
                                                       {"{\"step\":18446744073709551615}", no_step}};
  for (const auto& [line, fault] : cases) {
    const std::filesystem::path path = folder.put("log", "{\"step\":1}\n" + line + "\n");
    EXPECT_EQ(message_of([&] { JsonLines lines(path, 3); }), path.string() + ":2: " + fault) << line;
    EXPECT_EQ(read_file(path), "{\"step\":1}\n" + line + "\n");
  }
}

TEST(JsonLines, RefusesToWriteWhatItCouldNotRead) {
  const TempFolder folder;
  JsonLines lines(folder / "log", -1);
  EXPECT_THROW(lines.write({{"loss", 1.0}}), UserError);
  EXPECT_THROW(lines.write(Json::array()), UserError);
  EXPECT_EQ(read_file(folder / "log"), "");
}

}  // namespace
}  // namespace smoe
