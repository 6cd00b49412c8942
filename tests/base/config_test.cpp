#include "smoe/base/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include <nlohmann/json.hpp>

#include "tests/base/small_config.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;

class ConfigTest : public testing::Test {
 protected:
  ConfigTest() { config_.describe(fields_); }

  std::string toml_fault(const std::string& text) {
    return message_of([&] { read_toml(fields_, text, "x.toml"); });
  }
  std::string set_fault(const std::string& text) {
    return message_of([&] { set_field(fields_, text); });
  }
  std::string json_fault(const Json& json) {
    return message_of([&] { from_json(fields_, json, "c.json"); });
  }

  SmallConfig config_;
  Fields fields_;
};

TEST_F(ConfigTest, ReadsEveryType) {
  read_toml(fields_,
            "seed = -3\npath = 'C:\\x'\n[model]\nlayers = 8 # comment\nkind = \"dense\"\nmoe_layers = [0, 2]\n"
            "widths = []\n[train]\nrate = 1\ndropout = 0.5\nshuffle = false\n",
            "x.toml");
  EXPECT_EQ(config_.seed, -3);
  EXPECT_EQ(config_.path, "C:\\x");
  EXPECT_EQ(config_.model.layers, 8);
  EXPECT_EQ(config_.model.kind, "dense");
  EXPECT_EQ(config_.model.moe_layers.ids, (std::vector<int64_t>{0, 2}));
  EXPECT_FALSE(config_.model.moe_layers.all);
  EXPECT_TRUE(config_.model.widths.empty());
  EXPECT_EQ(config_.rate, 1.0);  // an integer stands for a number
  EXPECT_EQ(config_.dropout, 0.5);
  EXPECT_FALSE(config_.shuffle);
}

TEST_F(ConfigTest, KeepsWhatIsNotMentioned) {
  read_toml(fields_, "model.layers = 2\n[train]\n", "x.toml");
  EXPECT_EQ(config_.model.layers, 2);
  EXPECT_EQ(config_.model.kind, "moe");
  EXPECT_EQ(config_.rate, 2.5e-4);
}

TEST_F(ConfigTest, ReadsFiles) {
  const TempFolder folder;
  read_toml_file(fields_, folder.put("x.toml", "seed = 7\n").string());
  EXPECT_EQ(config_.seed, 7);
  EXPECT_THROW(read_toml_file(fields_, folder / "missing.toml"), UserError);
}

TEST_F(ConfigTest, SelectsLayers) {
  EXPECT_TRUE(config_.model.moe_layers.contains(5));
  set_field(fields_, "model.moe_layers=none");
  EXPECT_FALSE(config_.model.moe_layers.contains(0));
  set_field(fields_, "model.moe_layers=[1, 3]");
  EXPECT_TRUE(config_.model.moe_layers.contains(3));
  EXPECT_FALSE(config_.model.moe_layers.contains(2));
  set_field(fields_, "model.moe_layers=\"all\"");
  EXPECT_TRUE(config_.model.moe_layers.contains(2));
}

TEST_F(ConfigTest, SuggestsTheNearestName) {
  EXPECT_EQ(toml_fault("\n[model]\nlayrs = 2\n"), "x.toml:3: unknown key 'model.layrs'; did you mean 'model.layers'?");
  EXPECT_EQ(toml_fault("[modle]\nlayers = 2\n"), "x.toml:2: unknown key 'modle.layers'; did you mean 'model.layers'?");
  EXPECT_EQ(toml_fault("[modle]\n"), "x.toml:1: unknown key 'modle'; did you mean 'model'?");
  EXPECT_EQ(toml_fault("layers = 2\n"), "x.toml:1: unknown key 'layers'; did you mean 'model.layers'?");
  EXPECT_EQ(toml_fault("modellayers = 2\n"), "x.toml:1: unknown key 'modellayers'; did you mean 'model.layers'?");
  EXPECT_EQ(toml_fault("[train]\nseed = 2\n"), "x.toml:2: unknown key 'train.seed'; did you mean 'seed'?");
  EXPECT_EQ(toml_fault("[optimizer]\ndroput = 2\n"),
            "x.toml:2: unknown key 'optimizer.droput'; did you mean 'train.dropout'?");
  EXPECT_EQ(toml_fault("[train]\ncolour = 2\n"),
            "x.toml:2: unknown key 'train.colour'; known in train: rate, dropout, shuffle");
  EXPECT_EQ(toml_fault("[optimizer]\ncolour = 2\n"),
            "x.toml:2: unknown key 'optimizer.colour'; known tables: model, train");
  EXPECT_EQ(message_of([&] { fields_.find("sed"); }), "unknown key 'sed'; did you mean 'seed'?");
  EXPECT_EQ(fields_.find("train.rate").name, "train.rate");
}

TEST_F(ConfigTest, ReportsTheFirstMistakeOfTheFile) {
  EXPECT_EQ(toml_fault("seed = 'a'\n[model]\nlayers = 'b'\n"), "x.toml:1: seed must be an integer, got string \"a\"");
  EXPECT_EQ(toml_fault("[train]\nrate = 'b'\n[model]\nlayers = 'a'\n"),
            "x.toml:2: train.rate must be a number, got string \"b\"");
}

TEST_F(ConfigTest, RefusesOtherTypes) {
  const auto fault = [&](const std::string& line) { return toml_fault(line).substr(10); };  // after "x.toml:1: "
  EXPECT_EQ(fault("seed = 1.0"), "seed must be an integer, got number 1.0");
  EXPECT_EQ(fault("seed = true"), "seed must be an integer, got true");
  EXPECT_EQ(fault("seed = [1]"), "seed must be an integer, got array [1]");
  EXPECT_EQ(fault("seed = {a = 1}"), "unknown key 'seed.a'; did you mean 'seed'?");
  EXPECT_EQ(fault("seed = {}"), "seed must be an integer, got a table");
  EXPECT_EQ(fault("train.shuffle = 1"), "train.shuffle must be true or false, got integer 1");
  EXPECT_EQ(fault("path = 1979-05-27"), "path must be a string, got a date or time");
  EXPECT_EQ(fault("model.moe_layers = 'some'"),
            "model.moe_layers must be \"all\", \"none\" or an array of layer ids, got string \"some\"");
  EXPECT_EQ(fault("model.moe_layers = [1, 'a']"),
            "model.moe_layers must be \"all\", \"none\" or an array of layer ids, got an array with a string");
  EXPECT_EQ(fault("model.widths = ['a', 'b']"), "model.widths must be an array of integers, got array [\"a\", \"b\"]");
  EXPECT_EQ(fault("model.widths = ['a', 1]"),
            "model.widths must be an array of integers, got an array with an integer");
  EXPECT_EQ(fault("model.widths = 1"), "model.widths must be an array of integers, got integer 1");
  EXPECT_EQ(fault("model = 1"), "'model' is a table of settings, got integer 1");
  EXPECT_EQ(fault("[[model]]"), "'model' is a table of settings, got an array with a table");
}

TEST_F(ConfigTest, RefusesWhatIsNotAllowed) {
  const auto fault = [&](const std::string& line) { return toml_fault(line).substr(10); };
  EXPECT_EQ(fault("model.layers = 0"), "model.layers must be at least 1, got integer 0");
  EXPECT_EQ(fault("model.widths = [3, 0]"), "model.widths must be at least 1, got array [3, 0]");
  EXPECT_EQ(fault("train.rate = 0"), "train.rate must be greater than 0, got integer 0");
  EXPECT_EQ(fault("train.dropout = 1.5"), "train.dropout must be between 0 and 1, got number 1.5");
  EXPECT_EQ(fault("train.rate = nan"), "train.rate must be a finite number, got number nan");
  EXPECT_EQ(fault("train.rate = inf"), "train.rate must be a finite number, got number inf");
  EXPECT_EQ(fault("model.kind = 'mor'"), "model.kind: unknown value \"mor\"; did you mean 'moe'?");
  EXPECT_EQ(fault("model.kind = 'recurrent'"), "model.kind: unknown value \"recurrent\"; known: dense, moe");
  EXPECT_EQ(fault("model.moe_layers = [1, 1]"), "model.moe_layers must name each layer once, got array [1, 1]");
  EXPECT_EQ(fault("model.moe_layers = [-1]"), "model.moe_layers must have no negative ids, got array [-1]");
  EXPECT_EQ(config_.model.layers, 4);
}

TEST_F(ConfigTest, RefusesWhatIsNoToml) {
  EXPECT_EQ(toml_fault("seed = 1\nseed = 2\n"),
            "x.toml:2: Error while parsing key-value pair: cannot redefine existing integer 'seed'");
  for (const char* text : {"seed =", "seed = \"", "[model", "= 3", "seed = 9223372036854775808", "path = \"\\q\""}) {
    EXPECT_TRUE(toml_fault(text).starts_with("x.toml:1: ")) << text << ": " << toml_fault(text);
  }
}

TEST_F(ConfigTest, RefusesOneSettingByTwoNames) {
  EXPECT_EQ(toml_fault("\"model.layers\" = 2\n[model]\nlayers = 3\n"), "x.toml:3: 'model.layers' comes twice");
  EXPECT_NE(toml_fault("model = {layers = 2, layers = 3}").find("cannot redefine"), std::string::npos);
  Json json = to_json(fields_);
  json["model.layers"] = 7;
  EXPECT_EQ(json_fault(json), "c.json: 'model.layers' comes twice");
}

TEST_F(ConfigTest, SaysItInOneShortLine) {
  EXPECT_EQ(toml_fault("\"a\\nb\" = 1"), "x.toml:1: unknown key 'a\\nb'; known tables: model, train");
  EXPECT_EQ(toml_fault("seed = \"\\u001b[2J\\u009bx\""),
            "x.toml:1: seed must be an integer, got string \"\\u001B[2J\\u009Bx\"");
  EXPECT_EQ(toml_fault("model.kind = \"a\\nb\""), "x.toml:1: model.kind: unknown value \"a\\nb\"; known: dense, moe");
  const std::string mega(1'000'000, 'x');
  EXPECT_EQ(toml_fault(mega + " = 1"),
            "x.toml:1: unknown key '" + mega.substr(0, 120) + "…'; known tables: model, train");
  EXPECT_LT(toml_fault("seed = '" + mega + "'").size(), 200u);
  EXPECT_LT(toml_fault("model.kind = '" + mega + "'").size(), 200u);
  EXPECT_LT(toml_fault(mega + " = 1\n" + mega + " = 1").size(), 400u);
  std::string list = "0";
  for (int i = 0; i < 100'000; ++i) list += ", 0";
  EXPECT_LT(toml_fault("model.widths = [" + list + "]").size(), 200u);
}

TEST_F(ConfigTest, RefusesFilesThatAreNoRecipe) {
  const TempFolder folder;
  const std::string path = folder.put("x.toml", std::string(kLargestToml + 1, '#')).string();
  EXPECT_EQ(message_of([&] { read_toml_file(fields_, path); }),
            path + ": is larger than such a file can be, which is 1048576 bytes");
  folder.put("x.toml", std::string(kLargestToml, '#'));
  EXPECT_NO_THROW(read_toml_file(fields_, path));
}

TEST_F(ConfigTest, SurvivesWhatBreaksTheParser) {
  for (const char* text : {"[[[1]]]", "[[[]]", "[[=", "seed = 1\n[[[seed"}) {
    EXPECT_EQ(toml_fault(text), "x.toml: is not valid TOML; is each '[[' followed by a name?") << text;
  }
  EXPECT_EQ(toml_fault("path = 'é' # é\n\"é\" = 1"), "x.toml:2: unknown key 'é'; known tables: model, train");
  EXPECT_EQ(toml_fault("path = \"\\\"é\"\n# \"\né = 1"), "x.toml:3: has a character outside quotes that is not ASCII");
  EXPECT_EQ(toml_fault("path = é"), "x.toml:1: has a character outside quotes that is not ASCII");
  EXPECT_EQ(toml_fault("\npath = \"\"\"\\\né\"\"\""), "x.toml:2: strings in three quotes are not read here");
  EXPECT_TRUE(toml_fault("path = 1'é").starts_with("x.toml:1: Error while parsing"));
  EXPECT_EQ(toml_fault("path = \"\\é\""), "x.toml:1: has an unknown escape in a string");
  EXPECT_EQ(toml_fault("path = '\xff'"), "x.toml: is not valid UTF-8");
  EXPECT_EQ(toml_fault("\xEF\xBB\xBFpath = \"\""), "(nothing was thrown)");
  EXPECT_TRUE(set_fault("seed=[[=").starts_with("--set seed=[[=: "));
  EXPECT_TRUE(set_fault("seed=1\n[[=").starts_with("--set seed=1\n[[=: seed must be an integer, got string"));
}

TEST_F(ConfigTest, ReadsStringsAsTheyAre) {
  const auto path_of = [&](const std::string& text) {
    read_toml(fields_, "path = " + text + " # \"é' \\", "x.toml");
    return config_.path;
  };
  EXPECT_EQ(path_of(R"("aé→😀")"), "aé→😀");
  EXPECT_EQ(path_of(R"('aé→😀')"), "aé→😀");
  EXPECT_EQ(path_of(R"('"\n\é"')"), R"("\n\é")");
  EXPECT_EQ(path_of(R"("'#\\\"\u00e9\U0001F600#")"), R"('#\"é😀#)");
  EXPECT_EQ(path_of("''"), "");
  EXPECT_EQ(path_of("\"\""), "");
}

TEST_F(ConfigTest, SurvivesDepth) {
  std::string dots, arrays;
  for (int i = 0; i < 300'000; ++i) {
    dots += "a.";
    arrays += "[";
  }
  EXPECT_EQ(toml_fault("\n" + dots + "a = 1\n"), "x.toml:2: has more than 64 dots");
  EXPECT_THROW(set_field(fields_, "seed={" + dots + "a = 1}"), UserError);
  EXPECT_THROW(read_toml(fields_, "seed = " + arrays, "x.toml"), UserError);
  std::string open, close;  // as deep as the parser goes
  for (int i = 0; i < 127; ++i) {
    open += "[\n{" + dots.substr(0, 128) + "a = ";
    close += "}]";
  }
  EXPECT_EQ(toml_fault("seed = " + open + "1" + close), "x.toml:1: seed must be an integer, got an array with a table");
  EXPECT_NO_THROW(read_toml(fields_, "# " + std::string(200, '.') + "\nseed = 1", "x.toml"));
}

TEST_F(ConfigTest, SurvivesAnyMutation) {
  const std::string good = to_toml(fields_) + "\n# end\n";
  std::mt19937 random(1);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string changed = good;
    for (size_t change = random() % 3 + 1; change > 0; --change) {
      const size_t place = random() % changed.size();
      if (random() % 2 == 0) {
        changed[place] = static_cast<char>(random());
      } else {
        changed.insert(place, 1, "[]{}=.\"'\n#-+_e0x"[random() % 17]);
      }
    }
    refused += toml_fault(changed) != "(nothing was thrown)";  // any other exception ends the test
  }
  EXPECT_GT(refused, 1500);
}

TEST_F(ConfigTest, SetsFromTheCommandLine) {
  set_field(fields_, "model.layers=2");
  set_field(fields_, " train.rate = 1e-3 ");
  set_field(fields_, "model.kind=dense");
  set_field(fields_, "train.shuffle=false");
  set_field(fields_, "path=a=b # c");
  EXPECT_EQ(config_.model.layers, 2);
  EXPECT_EQ(config_.rate, 1e-3);
  EXPECT_EQ(config_.model.kind, "dense");
  EXPECT_FALSE(config_.shuffle);
  EXPECT_EQ(config_.path, "a=b # c");
  for (const char* text : {"path=2024", "path=\"2024\"", "path='2024'"}) {
    set_field(fields_, text);
    EXPECT_EQ(config_.path, "2024");
  }
  set_field(fields_, "path=");
  EXPECT_EQ(config_.path, "");
}

TEST_F(ConfigTest, RefusesOnTheCommandLine) {
  EXPECT_EQ(set_fault("modle.layers=2"),
            "--set modle.layers=2: unknown key 'modle.layers'; did you mean 'model.layers'?");
  EXPECT_EQ(set_fault("seed"), "--set seed: must be key=value, such as train.steps=100");
  EXPECT_EQ(set_fault("=3"), "--set =3: must be key=value, such as train.steps=100");
  EXPECT_EQ(set_fault("seed=two"), "--set seed=two: seed must be an integer, got string \"two\"");
  EXPECT_EQ(set_fault("seed="), "--set seed=: seed must be an integer, got string \"\"");
  EXPECT_EQ(set_fault("seed=1\npath=2"), "--set seed=1\npath=2: seed must be an integer, got string \"1\\npath=2\"");
  EXPECT_EQ(set_fault("model.layers=0"), "--set model.layers=0: model.layers must be at least 1, got integer 0");
  EXPECT_TRUE(set_fault("path=\"a").starts_with("--set path=\"a: ")) << set_fault("path=\"a");
  EXPECT_EQ(set_fault("path=\xff"), "--set path=\xff: path is not valid UTF-8");
}

TEST_F(ConfigTest, WritesToml) {
  config_.model.moe_layers = {false, {0, 3}};
  EXPECT_EQ(to_toml(fields_),
            "seed = 1\npath = \"data\"\n\n[model]\nlayers = 4\nkind = \"moe\"\nmoe_layers = [0, 3]\nwidths = [1, 2]\n\n"
            "[train]\nrate = 0.00025\ndropout = 0.0\nshuffle = true\n");
}

/// Writes `value` in both formats and reads it back into another configuration.
void expect_round_trip(const SmallConfig& value) {
  SmallConfig written = value, from_text, from_tree;
  Fields fields, text_fields, tree_fields;
  written.describe(fields);
  from_text.describe(text_fields);
  from_tree.describe(tree_fields);
  read_toml(text_fields, to_toml(fields), "x.toml");
  from_json(tree_fields, Json::parse(to_json(fields).dump()), "c.json");
  for (const SmallConfig* read : {&from_text, &from_tree}) {
    EXPECT_EQ(read->seed, value.seed);
    EXPECT_EQ(read->path, value.path);
    EXPECT_EQ(read->model.layers, value.model.layers);
    EXPECT_EQ(read->model.kind, value.model.kind);
    EXPECT_EQ(read->model.moe_layers.all, value.model.moe_layers.all);
    EXPECT_EQ(read->model.moe_layers.ids, value.model.moe_layers.ids);
    EXPECT_EQ(read->model.widths, value.model.widths);
    EXPECT_EQ(read->shuffle, value.shuffle);
    EXPECT_EQ(read->rate, value.rate);
    EXPECT_EQ(read->dropout, value.dropout);
    EXPECT_EQ(std::signbit(read->dropout), std::signbit(value.dropout));
  }
}

TEST(ConfigRoundTrip, IsExact) {
  using Double = std::numeric_limits<double>;
  for (const double rate : {1.0, 0.1, 1.0 / 3.0, 2.5e-4, 1e22, 1e300, 123456789.0, 0x1.fffffffffffffp-1, Double::min(),
                            Double::max(), Double::denorm_min()}) {
    SmallConfig config;
    config.rate = rate;
    expect_round_trip(config);
  }
  SmallConfig config;
  config.dropout = -0.0;
  config.seed = std::numeric_limits<int64_t>::min();
  config.model.layers = std::numeric_limits<int64_t>::max();
  config.model.moe_layers = {};
  config.model.widths = {};
  config.shuffle = false;
  config.path = "\"quoted\" \\ é \t\r\n\b\f\x01\x1f\x7f";
  expect_round_trip(config);
  config.model.moe_layers = {false, {3, 1}};
  config.path = "";
  expect_round_trip(config);
}

TEST_F(ConfigTest, WritesJson) {
  EXPECT_EQ(to_json(fields_).dump(),
            "{\"seed\":1,\"model\":{\"layers\":4,\"kind\":\"moe\",\"moe_layers\":\"all\",\"widths\":[1,2]},"
            "\"train\":{\"rate\":0.00025,\"dropout\":0.0,\"shuffle\":true},\"path\":\"data\"}");
}

TEST_F(ConfigTest, RefusesOtherJson) {
  const Json good = to_json(fields_);
  const auto with = [&](const char* pointer, const Json& value) {
    Json changed = good;
    changed[Json::json_pointer(pointer)] = value;
    return json_fault(changed);
  };
  EXPECT_EQ(json_fault(good), "(nothing was thrown)");
  EXPECT_EQ(json_fault(Json::array()), "c.json: the configuration must be a JSON object, got array");
  EXPECT_EQ(with("/model/layrs", 1), "c.json: unknown key 'model.layrs'; did you mean 'model.layers'?");
  EXPECT_EQ(with("/modle", Json::object()), "c.json: unknown key 'modle'; did you mean 'model'?");
  EXPECT_EQ(with("/model/layers", 1.0), "c.json: model.layers must be an integer, got number 1.0");
  EXPECT_EQ(with("/model/layers", uint64_t{1} << 63),
            "c.json: model.layers must be an integer, got 9223372036854775808, which 64 bits do not hold");
  EXPECT_EQ(with("/seed", nullptr), "c.json: seed must be an integer, got null");
  EXPECT_EQ(with("/seed", Json::object()), "c.json: seed must be an integer, got an object");
  EXPECT_EQ(with("/model", 1), "c.json: 'model' is a table of settings, got integer 1");
  EXPECT_EQ(with("/model", Json::object()), "c.json: 'model.layers' is missing");
  EXPECT_EQ(with("/model/widths", Json{1, 2.5}),
            "c.json: model.widths must be an array of integers, got an array with another number");
  EXPECT_EQ(with("/train/dropout", -1), "c.json: train.dropout must be between 0 and 1, got integer -1");
  Json missing = good;
  missing["train"].erase("rate");
  EXPECT_EQ(json_fault(missing), "c.json: 'train.rate' is missing");
}

TEST_F(ConfigTest, SurvivesDeepJson) {
  std::string text = "1";
  for (int i = 0; i < 2000; ++i) text = "{\"a\":" + text + "}";
  EXPECT_EQ(json_fault(Json::parse(text)), "c.json: unknown key 'a.a.a.a.a.a.a.a.a'; known tables: model, train");
}

TEST_F(ConfigTest, DescribesItselfInMarkdown) {
  const std::string text = to_markdown(fields_);
  EXPECT_TRUE(text.starts_with("| name | type | default | allowed | what it is |\n| --- |"));
  EXPECT_NE(text.find("| `model.layers` | integer | `4` | at least 1 | how many |\n"), std::string::npos);
  EXPECT_NE(text.find("| `model.kind` | string | `\"moe\"` | dense, moe | dense \\| moe |\n"), std::string::npos);
  EXPECT_NE(text.find("| `model.moe_layers` | layers | `\"all\"` |  | which |\n"), std::string::npos);
  EXPECT_NE(text.find("| `train.rate` | number | `0.00025` | greater than 0 | at the peak |\n"), std::string::npos);
}

TEST(ConfigFields, StateWhatIsAllowed) {
  int64_t value = 0;
  Allowed open = between(0, 1), only_max;
  open.open_min = true;
  only_max.max = 0.5;
  const auto text = [&](Allowed allowed) { return allowed_text({"x", &value, "", std::move(allowed)}); };
  EXPECT_EQ(text({}), "");
  EXPECT_EQ(text(at_least(-2)), "at least -2");
  EXPECT_EQ(text(above(0)), "greater than 0");
  EXPECT_EQ(text(between(0, 1)), "between 0 and 1");
  EXPECT_EQ(text(open), "greater than 0 and at most 1");
  EXPECT_EQ(text(only_max), "at most 0.5");
}

TEST(ConfigFields, AreDescribedOnce) {
  int64_t value = 0;
  Fields fields;
  fields.add("x", &value, "");
  EXPECT_THROW(fields.add("x", &value, ""), std::logic_error);
  EXPECT_EQ(fields.names(), (std::vector<std::string>{"x"}));
}

}  // namespace
}  // namespace smoe
