#include "smoe/study/report.h"

#include <gtest/gtest.h>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;

std::string step_line(int64_t step, double loss = 2.5, const std::string& k = "3") {
  return concat(R"({"step":)", step, R"(,"tokens":)", 32 * step, R"(,"loss":)", loss, R"(,"bpc":)", loss / 0.5,
                R"(,"k":)", k, R"(,"lr":0.001,"grad_norm":0.75,"layers":[{"load":[0.25,0.75,0,0],"entropy":1.25,)",
                R"("dropped":0.125}]})", "\n");
}

std::string valid_line(int64_t step, int64_t k, const char* split = "valid") {
  return concat(R"({"step":)", step, R"(,"split":")", split, R"(","k":)", k, R"(,"nll":1.5,"bpc":2.164})", "\n");
}

std::string evaluation(const std::string& checkpoint, int64_t k, double bpc, int64_t tokens = 100) {
  return concat(R"({"checkpoint":")", checkpoint, R"(","step":10,"split":"test","threads":2,"data":{"path":"t.txt",)",
                R"("sha256":"ab"},"results":[{"value":)", k, R"(,"nll":1,"bpc":)", bpc, R"(,"tokens":)", tokens,
                R"(,"active_parameters":5,"flops_per_token":6,"tokens_per_second":7}]})", "\n");
}

/// A folder with a run "run" in it, whose files a test replaces.
class Run : public ::testing::Test {
 protected:
  Run() {
    std::filesystem::create_directory(folder_ / "run");
    put("recipe.toml", "[train]\nsteps = 10\n");
    put("metrics.jsonl", step_line(5) + valid_line(5, 4) + valid_line(5, 2) + step_line(10, 2.25));
    put("timing.jsonl", "{\"step\":5,\"seconds\":0.5,\"tokens_per_second\":320}\n");
  }
  void put(const std::string& name, const std::string& text) { folder_.put("run/" + name, text); }
  RunRecord read() const { return read_run(folder_ / "run"); }
  std::string refusal() const {
    return message_of([this] { read(); });
  }
  TempFolder folder_;
};

TEST_F(Run, NumbersInAreNumbersOut) {
  put("evaluations.jsonl", evaluation("step-00000010", 4, 2.125));
  const Json run = report_data({read()})["runs"][0];
  EXPECT_EQ(run["name"], "run");
  EXPECT_EQ(run["step"], 10);
  EXPECT_EQ(run["planned_steps"], 10);
  EXPECT_EQ(run["finished"], false);  // its last checkpoint is not there
  const Json& training = run["training"];
  EXPECT_EQ(training["step"], Json({5, 10}));
  EXPECT_EQ(training["tokens"], Json({160, 320}));
  EXPECT_EQ(training["loss"], Json({2.5, 2.25}));
  EXPECT_EQ(training["bpc"], Json({5.0, 4.5}));
  EXPECT_EQ(training["k"], Json({3, 3}));
  EXPECT_EQ(training["grad_norm"], Json({0.75, 0.75}));
  EXPECT_EQ(training["layers"][0]["entropy"], Json({1.25, 1.25}));
  EXPECT_EQ(training["layers"][0]["dropped"], Json({0.125, 0.125}));
  EXPECT_EQ(run["load"]["layers"][0][1], Json({0.25, 0.75, 0.0, 0.0}));
  ASSERT_EQ(run["valid"].size(), 2u);
  EXPECT_EQ(run["valid"][1]["k"], 2);
  EXPECT_EQ(run["valid"][1]["bpc"], Json::array({2.164}));
  EXPECT_EQ(run["timing"]["tokens_per_second"], Json::array({320.0}));
  EXPECT_EQ(run["evaluations"][0]["rows"][0]["bpc"], 2.125);
  EXPECT_EQ(run["evaluations"][0]["rows"][0]["flops_per_token"], 6.0);
  EXPECT_EQ(run["recipe"][0], Json({"train.steps", "10"}));
}

TEST_F(Run, EvaluationsOfAveragedWeightsAreNotThoseOfTheWeights) {
  const std::string lines = step_line(5) + valid_line(5, 4) + valid_line(5, 2);
  put("metrics.jsonl", lines);
  const Json without = report_data({read()})["runs"][0]["valid"];
  ASSERT_EQ(without.size(), 2u);
  put("metrics.jsonl", lines + valid_line(5, 4, "valid_average") + valid_line(5, 4, "valid_average"));
  const Json with = report_data({read()})["runs"][0]["valid"];
  ASSERT_EQ(with.size(), 3u);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(with[i], without[i]);
  const Json expected{{"k", 4}, {"averaged", true}, {"step", {5}}, {"nll", {1.5}}, {"bpc", {2.164}}};
  EXPECT_EQ(with[2], expected);
}

TEST_F(Run, TellsWhatIsFrozen) {
  EXPECT_EQ(report_data({read()})["runs"][0]["frozen"], Json::object());
  std::string line = step_line(15);
  line.insert(line.rfind('}'), R"(,"frozen":{"router":6,"experts":11})");
  put("metrics.jsonl", step_line(5) + line);
  EXPECT_EQ(report_data({read()})["runs"][0]["frozen"], Json({{"experts", 11}, {"router", 6}}));
}

TEST_F(Run, ALineThatIsBeingWrittenIsLeftOut) {
  const std::string whole = step_line(5);
  for (const size_t size : {size_t{1}, whole.size() / 2, whole.size() - 1}) {
    put("metrics.jsonl", whole + step_line(10).substr(0, size));
    EXPECT_EQ(read().steps.size(), 1u);
  }
}

TEST_F(Run, WhatHasNotBegunIsEmpty) {
  for (const char* name : {"metrics.jsonl", "timing.jsonl"}) std::filesystem::remove(folder_ / "run" / name);
  const Json run = report_data({read()})["runs"][0];
  EXPECT_EQ(run["step"], 0);
  EXPECT_TRUE(run["training"]["step"].empty());
  EXPECT_TRUE(run["load"]["layers"].empty());
  put("metrics.jsonl", "");
  EXPECT_TRUE(read().steps.empty());
}

TEST_F(Run, BrokenLinesAreRefusedByName) {
  const std::string one = step_line(5);
  const auto without = [&](const std::string& part, const std::string& instead) {
    std::string text = one;
    return text.replace(text.find(part), part.size(), instead);
  };
  const std::pair<std::string, std::string> cases[] = {
      {"{\"step\":5\n", "metrics.jsonl:1: is not JSON at column 10"},
      {one + "[]\n", "metrics.jsonl:2: is not a JSON object"},
      {without("\"loss\"", "\"lost\""), "\"loss\" is missing"},
      {without("\"step\":5", "\"step\":-5"), "\"step\" must be an integer of at least 0"},
      {without("\"step\":5", "\"step\":18446744073709551615"), "\"step\" must be an integer"},
      {without("0.75,0,0]", "0.75,\"0\"]"), "\"load\" must hold numbers"},
      {without("[{\"load\"", "[1,{\"load\""), "is not a JSON object"},
      {one + one, "metrics.jsonl:2: step 5 does not come after step 5"},
      {one + valid_line(5, 4) + valid_line(3, 4), "metrics.jsonl:3: step 3 does not come after step 5"},
      {R"({"frozen":{"router":-1},)" + one.substr(1), "metrics.jsonl:1: \"frozen\": must hold integers of at least 0"},
      {R"({"frozen":[1],)" + one.substr(1), "metrics.jsonl:1: \"frozen\": is not a JSON object"},
  };
  for (const auto& [text, message] : cases) {
    put("metrics.jsonl", text);
    EXPECT_NE(refusal().find(message), std::string::npos) << text << refusal();
  }
  std::string fewer = step_line(10);
  fewer.replace(fewer.find("0.75,0,0]"), 9, "0.75,0]");
  put("metrics.jsonl", one + fewer);
  EXPECT_NE(refusal().find("metrics.jsonl:2: has other layers"), std::string::npos) << refusal();
}

TEST_F(Run, OtherBrokenFilesAreRefusedByName) {
  put("evaluations.jsonl", "{\"checkpoint\":1}\n");
  EXPECT_NE(refusal().find("evaluations.jsonl:1: \"data\" is missing"), std::string::npos) << refusal();
  std::filesystem::remove(folder_ / "run/evaluations.jsonl");
  put("timing.jsonl", "x\n");
  EXPECT_NE(refusal().find("timing.jsonl:1"), std::string::npos) << refusal();
  put("timing.jsonl", "");
  put("environment.json", "{");
  EXPECT_NE(refusal().find("environment.json: is not JSON at column 2"), std::string::npos) << refusal();
  put("environment.json", "{}");
  put("recipe.toml", "train = [");
  EXPECT_NE(refusal().find("recipe.toml"), std::string::npos) << refusal();
  std::filesystem::remove(folder_ / "run/recipe.toml");
  EXPECT_NE(refusal().find("is not a run"), std::string::npos) << refusal();
}

TEST_F(Run, ANumberThatIsNotFiniteIsAGap) {
  std::string text = step_line(5);
  text.replace(text.find("0.75"), 4, "null");
  put("metrics.jsonl", text + step_line(10));
  EXPECT_EQ(report_data({read()})["runs"][0]["training"]["grad_norm"], Json({nullptr, 0.75}));
}

TEST_F(Run, ALongRunKeepsItsPeaks) {
  std::string text;
  for (int64_t step = 1; step <= 1000; ++step) text += step_line(step, step == 333 ? 9.5 : step == 334 ? 0.5 : 2.0);
  put("metrics.jsonl", text);
  const Json run = report_data({read()}, {.lines = 100, .columns = 30})["runs"][0];
  const std::vector<double> losses = run["training"]["loss"];
  const std::vector<int64_t> steps = run["training"]["step"];
  EXPECT_LE(steps.size(), 100u);
  EXPECT_TRUE(std::is_sorted(steps.begin(), steps.end()));
  EXPECT_EQ(steps.back(), 1000);
  EXPECT_EQ(*std::max_element(losses.begin(), losses.end()), 9.5);
  EXPECT_EQ(*std::min_element(losses.begin(), losses.end()), 0.5);
  EXPECT_EQ(run["lines"], 1000);
  EXPECT_LE(run["load"]["step"].size(), 30u);
  EXPECT_EQ(run["load"]["step"].back(), 1000);
  EXPECT_EQ(run["load"]["layers"][0].back(), Json({0.25, 0.75, 0.0, 0.0}));
}

TEST_F(Run, LaterEvaluationsReplaceEarlierOnes) {
  put("evaluations.jsonl", evaluation("step-00000005", 4, 9) + evaluation("step-00000010", 2, 3) +
                               evaluation("step-00000005", 1, 8) + evaluation("step-00000010", 4, 2) +
                               evaluation("step-00000010", 2, 2.5) + evaluation("step-00000010", 2, 2.75, 50));
  const Json evaluations = report_data({read()})["runs"][0]["evaluations"];
  ASSERT_EQ(evaluations.size(), 2u);
  EXPECT_EQ(evaluations[0]["checkpoint"], "step-00000005");
  EXPECT_EQ(evaluations[0]["rows"].size(), 2u);
  std::vector<double> bpc;
  for (const Json& row : evaluations[1]["rows"]) bpc.push_back(row["bpc"]);
  EXPECT_EQ(bpc, (std::vector<double>{2.75, 2.5, 2}));
}

// So many that a reader that is quadratic in them makes the tests slow; how fast it is they do not judge.
TEST_F(Run, ManyLinesAreRead) {
  constexpr int64_t kCount = 20'000;
  std::string recipe, valid, evaluations;
  for (int64_t i = 0; i < kCount; ++i) {
    recipe += concat("k", i, " = 1\n");
    valid += valid_line(1, i);
    evaluations += evaluation(i % 2 == 0 ? "step-00000005" : concat(i), i, 1);
  }
  put("recipe.toml", recipe);
  put("metrics.jsonl", valid);
  put("evaluations.jsonl", evaluations);
  const Json run = report_data({read()})["runs"][0];
  EXPECT_EQ(run["recipe"].size(), static_cast<size_t>(kCount));
  EXPECT_EQ(run["valid"].size(), static_cast<size_t>(kCount));
  EXPECT_EQ(run["evaluations"].size(), static_cast<size_t>(kCount / 2 + 1));
}

TEST_F(Run, SeveralRunsHaveNamesAndDifferences) {
  std::filesystem::create_directories(folder_ / "other/run");
  folder_.put("other/run/recipe.toml", "[train]\nsteps = 20\nseed = 3\n");
  const RunRecord other = read_run(folder_ / "other/run");
  const Json data = report_data({read(), other});
  EXPECT_EQ(data["runs"][0]["name"], (folder_ / "run").string());  // both folders are called run
  EXPECT_EQ(data["differences"], Json::parse(R"([["train.steps", ["10", "20"]], ["train.seed", [null, "3"]]])"));
  EXPECT_NE(message_of([&] { report_data({other, other}); }).find("is named twice"), std::string::npos);
  EXPECT_NE(message_of([&] { report_data({}); }), "(nothing was thrown)");
}

TEST_F(Run, OutsideBytesStayText) {
  const std::string evil = "</script><script>alert(1)</script>&{{data}}";
  std::filesystem::create_directories(folder_ / "x");
  const std::filesystem::path path = folder_ / "x" / "<b>&{{data}}";
  std::filesystem::rename(folder_ / "run", path);
  write_file_atomic(path / "recipe.toml", "[data]\npath = \"" + evil + "\"\n");
  const Json data = report_data({read_run(path)});
  const std::string page = report_page(data, 0);
  EXPECT_EQ(page.find("<script>alert"), std::string::npos);
  EXPECT_NE(page.find("<h1>&lt;b&gt;&amp;{{data}}</h1>"), std::string::npos);
  // What the browser reads out of the page is what went into it.
  const std::string open = "<script type=\"application/json\" id=\"data\">";
  const size_t begin = page.find(open) + open.size();
  EXPECT_EQ(Json::parse(page.substr(begin, page.find("</script>", begin) - begin)), data);
}

TEST_F(Run, NamesNeedNotBeUtf8) {
  const std::filesystem::path path = folder_ / "a\xFFz";
  std::filesystem::rename(folder_ / "run", path);
  EXPECT_NE(report_page(report_data({read_run(path)}), 3).find("<h1>a\xEF\xBF\xBDz</h1>"), std::string::npos);
}

}  // namespace
}  // namespace smoe
