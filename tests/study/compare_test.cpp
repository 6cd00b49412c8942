#include <gtest/gtest.h>

#include <cmath>

#include "smoe/base/error.h"
#include "smoe/study/compare_plan.h"
#include "smoe/study/compare_results.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

class Plan : public ::testing::Test {
 protected:
  ComparePlan read(const std::string& text) {
    folder_.put("plan.toml", text);
    return read_compare_plan(folder_ / "plan.toml");
  }
  std::string refusal(const std::string& text) {
    return message_of([&] { read(text); });
  }
  TempFolder folder_;
};

TEST_F(Plan, EntriesTakeTheDefaultsAndTheirOwn) {
  const ComparePlan plan = read(R"(
base = "sub/base.toml"
seeds = 2
first_seed = 5
[eval]
k = "1,2"
split = "valid"
[entry.b]
summary = "as it is"
needs = "languages"
[entry.a-1]
seeds = 7
eval.k = ""
moe.router = "random_frozen"
model.layers = 3
)");
  EXPECT_EQ(plan.title, "plan");
  EXPECT_EQ(plan.base, folder_ / "sub" / "base.toml");
  EXPECT_EQ(plan.first_seed, 5);
  ASSERT_EQ(plan.entries.size(), 2u);
  const CompareEntry &b = plan.entries[0], &a = plan.entries[1];
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.summary, "as it is");
  EXPECT_TRUE(b.needs_languages);
  EXPECT_FALSE(a.needs_languages);
  EXPECT_EQ(b.seeds, 2);
  EXPECT_TRUE(b.settings.empty());
  EXPECT_EQ(b.evaluation, (std::vector<std::pair<std::string, std::string>>{{"k", "1,2"}, {"split", "valid"}}));
  EXPECT_EQ(a.name, "a-1");
  EXPECT_EQ(a.seeds, 7);
  EXPECT_EQ(a.evaluation, (std::vector<std::pair<std::string, std::string>>{{"split", "valid"}}));
  ASSERT_EQ(a.settings.size(), 2u);
  EXPECT_EQ(a.settings[0].name, "moe.router");
  EXPECT_EQ(value_text(a.settings[1].value), "3");
}

TEST_F(Plan, SaysWhatIsWrongAndWhere) {
  EXPECT_NE(
      refusal("bose = \"x\"\n[entry.a]\nsummary = \"\"").find("plan.toml:1: unknown key 'bose'; did you mean 'base'?"),
      std::string::npos);
  EXPECT_NE(refusal("[entry.a]\nsummary = \"\"").find("base is missing"), std::string::npos);
  EXPECT_NE(refusal("base = \"x\"").find("there is no entry"), std::string::npos);
  EXPECT_NE(refusal("base = \"x\"\nseeds = 0").find("seeds must be an integer from 1"), std::string::npos);
  EXPECT_NE(refusal("base = 3").find("base must be a string, got 3"), std::string::npos);
  EXPECT_NE(refusal("base = \"x\"\nentry.a = 3").find("must be a table"), std::string::npos);
  EXPECT_NE(refusal("base = \"x\"\n[entry.\"a b\"]\nsummary = \"\"").find("cannot name an entry"), std::string::npos);
  EXPECT_NE(refusal("base = \"x\"\n[entry.a]\nneeds = \"words\"").find("needs can be \"languages\", got \"words\""),
            std::string::npos);
  EXPECT_NE(refusal("base = \"x\"\n[entry.a]\ntrain.seed = 3").find("train.seed cannot be set"), std::string::npos);
}

TEST(ParseCount, TakesWholeNumbersWithUnits) {
  EXPECT_EQ(parse_count("1", "n"), 1);
  EXPECT_EQ(parse_count("600K", "n"), 600'000);
  EXPECT_EQ(parse_count("1.5M", "n"), 1'500'000);
  EXPECT_EQ(parse_count("2e14", "n"), 200'000'000'000'000);
  for (const char* text : {"", "0", "-1", "1.5", "1X", "1KB", "K", "nan", "inf", "1e19", " 1"}) {
    EXPECT_THROW(parse_count(text, "n"), UserError) << text;
  }
}

TEST(PlannedRuns, GoByTheSeedAndThenByTheEntry) {
  ComparePlan plan;
  plan.base = "base.toml";
  plan.first_seed = 4;
  plan.entries = {{.name = "a",
                   .summary = "",
                   .settings = {{"moe.experts", int64_t{8}, "plan.toml:3"}},
                   .seeds = 2,
                   .evaluation = {{"k", "1,2"}}},
                  {.name = "b", .summary = "", .settings = {}, .seeds = 1, .evaluation = {}}};
  const std::vector<PlannedRun> runs = planned_runs(plan, {500, 20}, "/data/t.txt");
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_EQ(runs[0].name, "a-seed4");
  EXPECT_EQ(runs[1].name, "b-seed4");
  EXPECT_EQ(runs[2].name, "a-seed5");
  EXPECT_EQ(runs[0].train,
            (std::vector<std::string>{"base.toml", "--data", "/data/t.txt", "--seed", "4", "--set", "train.log_every=5",
                                      "--set", "moe.experts=8", "--set", "train.steps=500"}));
  EXPECT_EQ(runs[0].evaluate, (std::vector<std::string>{"--k", "1,2"}));
  EXPECT_EQ(runs[1].train[6], "train.log_every=1");
}

TEST(Spread, IsThatOfOneSeed) {
  EXPECT_EQ(spread_of({2.0}).mean, 2.0);
  EXPECT_EQ(spread_of({2.0}).deviation, std::nullopt);
  EXPECT_DOUBLE_EQ(spread_of({1.0, 2.0, 3.0}).mean, 2.0);
  EXPECT_DOUBLE_EQ(*spread_of({1.0, 2.0, 3.0}).deviation, 1.0);
}

ComparedRun run_with(const std::string& entry, int64_t seed, const std::vector<std::pair<double, double>>& bits) {
  ComparedRun run{.entry = entry, .path = "runs/" + entry, .seed = seed, .results = {}};
  for (const auto& [k, bpc] : bits)
    run.results.push_back({.dial = "k", .value = k, .bpc = bpc, .mean_active_experts = k});
  return run;
}

TEST(Summary, OrdersByBpcAndMarksWhatIsNoFurtherThanTheSpread) {
  Comparison comparison;
  for (const char* name : {"far", "first", "close"}) {
    comparison.entries.push_back({.name = name, .summary = "", .settings = {}, .seeds = 2, .evaluation = {}});
  }
  comparison.runs = {run_with("first", 1, {{1, 3.0}, {4, 1.0}}), run_with("close", 1, {{4, 1.1}}),
                     run_with("first", 2, {{1, 3.2}, {4, 1.2}}), run_with("close", 2, {{4, 1.3}}),
                     run_with("far", 1, {{4, 2.0}})};
  const std::vector<SummaryRow> best = summarize(comparison, true);
  ASSERT_EQ(best.size(), 3u);
  EXPECT_EQ(best[0].entry, "first");
  EXPECT_EQ(best[0].value, 4.0);
  EXPECT_DOUBLE_EQ(best[0].bpc->mean, 1.1);
  EXPECT_EQ(best[0].seeds, 2);
  EXPECT_EQ(best[0].differs, std::nullopt);
  EXPECT_EQ(best[1].entry, "close");
  EXPECT_EQ(best[1].differs, false);
  EXPECT_EQ(best[2].entry, "far");
  EXPECT_EQ(best[2].differs, true);
  EXPECT_EQ(best[2].bpc->deviation, std::nullopt);
  EXPECT_EQ(summarize(comparison, false).size(), 4u);
  const std::string table = comparison_table(comparison);
  EXPECT_NE(table.find("1.2000~"), std::string::npos);
  EXPECT_EQ(table.find("2.0000~"), std::string::npos);
}

TEST(Summary, OfOneSeedEachSaysNothingOfDifferences) {
  Comparison comparison;
  comparison.entries = {{.name = "a", .summary = "", .settings = {}, .seeds = 1, .evaluation = {}},
                        {.name = "b", .summary = "", .settings = {}, .seeds = 1, .evaluation = {}}};
  comparison.runs = {run_with("a", 1, {{1, 3.0}}), run_with("b", 1, {{1, 3.5}})};
  EXPECT_EQ(summarize(comparison, true)[1].differs, std::nullopt);
  EXPECT_EQ(to_json(comparison)["summary"][1]["differs_from_row_above"], nullptr);
}

TEST(Summary, ARunWithoutABpcIsNamedAndItsRowHasNone) {
  Comparison comparison;
  comparison.entries = {{.name = "broken", .summary = "", .settings = {}, .seeds = 2, .evaluation = {}},
                        {.name = "whole", .summary = "", .settings = {}, .seeds = 2, .evaluation = {}}};
  comparison.runs = {run_with("broken", 1, {{1, 2.0}, {4, 1.0}}), run_with("whole", 1, {{4, 3.0}}),
                     run_with("broken", 2, {{1, 2.5}, {4, 1.5}}), run_with("whole", 2, {{4, 3.5}})};
  comparison.runs[2].path = "runs/broken-seed2";
  comparison.runs[2].results[1].bpc = std::nullopt;
  const std::vector<SummaryRow> rows = summarize(comparison, false);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_DOUBLE_EQ(rows[0].bpc->mean, 2.25);
  EXPECT_DOUBLE_EQ(rows[1].bpc->mean, 3.25);
  EXPECT_FALSE(rows[2].bpc.has_value());
  EXPECT_EQ(rows[2].seeds, 2);
  EXPECT_EQ(rows[2].differs, std::nullopt);
  EXPECT_DOUBLE_EQ(summarize(comparison, true)[0].bpc->mean, 2.25);
  const nlohmann::ordered_json json = to_json(comparison);
  EXPECT_TRUE(json["summary"][2]["bpc_mean"].is_null());
  EXPECT_TRUE(json["runs"][2]["results"][1]["bpc"].is_null());
  EXPECT_NE(comparison_table(comparison).find("runs/broken-seed2 has no bpc at k = 4: its loss is not finite\n"),
            std::string::npos);
  // An entry that has none at all has a row all the same.
  for (ComparedRun& run : comparison.runs) {
    for (ComparedValue& value : run.results) value.bpc = std::nullopt;
  }
  ASSERT_EQ(summarize(comparison, true).size(), 2u);
  EXPECT_NE(comparison_table(comparison).find("broken  k = 1                   - "), std::string::npos)
      << comparison_table(comparison);
}

StepLine routing_line(int64_t step, std::vector<LayerLine> layers) {
  StepLine line;
  line.step = step;
  line.layers = std::move(layers);
  return line;
}

TEST(RoutingColumns, AreMeansOfNeighbours) {
  const std::vector<StepLine> lines = {
      routing_line(2, {{.load = {1, 0}, .entropy = 0.5}, {.load = {0.5, 0.5}, .entropy = 1}}),
      routing_line(4, {{.load = {0, 1}, .entropy = 0.25}, {.load = {0.5, 0.5}, .entropy = 2}}),
      routing_line(6, {{.load = {0.25, 0.75}, .entropy = std::nan("")}, {.load = {0, 1}, .entropy = 3}})};
  const RoutingColumns two = routing_columns(lines, 2);
  EXPECT_EQ(two.step, (std::vector<int64_t>{4, 6}));
  using Columns = std::vector<std::vector<double>>;
  ASSERT_EQ(two.load.size(), 2u);
  EXPECT_EQ(two.load[0], (Columns{{0.5, 0.5}, {0.25, 0.75}}));
  EXPECT_EQ(two.load[1], (Columns{{0.5, 0.5}, {0, 1}}));
  EXPECT_EQ(two.entropy[0][0], 0.375);
  EXPECT_TRUE(std::isnan(two.entropy[0][1]));
  EXPECT_EQ(two.entropy[1], (std::vector<double>{1.5, 3}));
  EXPECT_EQ(routing_columns(lines, 100).step, (std::vector<int64_t>{2, 4, 6}));
  EXPECT_EQ(routing_columns(lines, 1).step, (std::vector<int64_t>{6}));
  EXPECT_TRUE(routing_columns({}, 5).step.empty());
  EXPECT_TRUE(routing_columns({routing_line(1, {})}, 5).load.empty());
}

TEST(Summary, OfNothingIsEmpty) {
  const Comparison comparison;
  EXPECT_TRUE(summarize(comparison, true).empty());
  EXPECT_EQ(to_json(comparison)["runs"], nlohmann::ordered_json::array());
  EXPECT_NE(comparison_page(comparison).find("smoe compare"), std::string::npos);
}

}  // namespace
}  // namespace smoe
