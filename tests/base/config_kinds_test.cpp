// Settings that only one of several kinds has, and settings that came later than files.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "smoe/base/config.h"
#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;

/// A kind, and settings that only one of the kinds has.
struct Family {
  std::string kind = "plain";
  struct Round {
    double radius = 1.5;
    void describe(Fields& fields) { fields.add("radius", &radius, "half the width", above(0)); }
  } round;
  struct Square {
    int64_t side = 2;
    void describe(Fields& fields) { fields.add("side", &side, "the width", at_least(1)); }
  } square;

  void describe(Fields& fields) {
    fields.add("kind", &kind, "what it is", one_of({"plain", "round", "square"}));
    fields.kind_table("round", kind, round);
    fields.kind_table("square", kind, square);
  }
};

class ConfigKinds : public ::testing::Test {
 protected:
  ConfigKinds() { fields_.table("shape", family_); }
  std::string toml_fault(const std::string& text) {
    return message_of([&] { read_toml(fields_, text, "r.toml"); });
  }

  Family family_;
  Fields fields_;
};

TEST_F(ConfigKinds, AreWrittenAndReadWhereTheyAreChosen) {
  EXPECT_EQ(to_toml(fields_), "[shape]\nkind = \"plain\"\n");
  EXPECT_EQ(to_json(fields_).dump(), R"({"shape":{"kind":"plain"}})");
  // The choice may stand after the kind's settings.
  read_toml(fields_, "[shape.round]\nradius = 3\n[shape]\nkind = \"round\"", "r.toml");
  EXPECT_EQ(family_.round.radius, 3);
  EXPECT_EQ(to_toml(fields_), "[shape]\nkind = \"round\"\n\n[shape.round]\nradius = 3.0\n");
  Family again;
  Fields fields;
  fields.table("shape", again);
  read_toml(fields, to_toml(fields_), "again");
  EXPECT_EQ(again.round.radius, 3);
  again = {};
  from_json(fields, to_json(fields_), "c.json");
  EXPECT_EQ(again.kind, "round");
  EXPECT_EQ(again.round.radius, 3);
}

TEST_F(ConfigKinds, TablesOfOthersAreNotNamedToAnUnknownKey) {
  EXPECT_EQ(toml_fault("colours = 3"), "r.toml:1: unknown key 'colours'; known tables: shape");
  EXPECT_EQ(toml_fault("[shape]\nkind = \"round\"\n[colours]\nred = 3"),
            "r.toml:4: unknown key 'colours.red'; known tables: shape, shape.round");
}

TEST_F(ConfigKinds, AreRefusedWhereTheyAreNot) {
  const std::string wrong = ": shape.square.side is a setting of shape.kind = \"square\", but shape.kind is ";
  EXPECT_EQ(toml_fault("[shape]\nkind = \"round\"\n[shape.square]\nside = 3"), "r.toml:4" + wrong + "\"round\"");
  EXPECT_EQ(toml_fault("[shape.round]\nside = 3"),
            "r.toml:2: unknown key 'shape.round.side'; did you mean 'shape.square.side'?");
  family_ = {};
  EXPECT_EQ(message_of([&] { set_field(fields_, "shape.square.side=3"); }),
            "--set shape.square.side=3" + wrong + "\"plain\"");
  set_field(fields_, "shape.kind=square");
  set_field(fields_, "shape.square.side=3");
  EXPECT_EQ(family_.square.side, 3);
  // Another choice leaves the settings of the first out of use, where they say nothing.
  set_field(fields_, "shape.kind=plain");
  EXPECT_EQ(to_toml(fields_), "[shape]\nkind = \"plain\"\n");
  EXPECT_EQ(
      message_of([&] { from_json(fields_, Json::parse(R"({"shape":{"kind":"plain","square":{"side":3}}})"), "c"); }),
      "c" + wrong + "\"plain\"");
  EXPECT_EQ(message_of([&] { from_json(fields_, Json::parse(R"({"shape":{"kind":"square"}})"), "c"); }),
            "c: 'shape.square.side' is missing");
}

TEST_F(ConfigKinds, AreAllInTheTableOfHelp) {
  const std::string table = to_markdown(fields_);
  EXPECT_NE(table.find("| `shape.round.radius` | number |"), std::string::npos);
  EXPECT_NE(table.find("| `shape.square.side` | integer |"), std::string::npos);
}

TEST(ConfigFields, NewerOnesMayBeMissing) {
  int64_t old_one = 1, newer = 2;
  Fields fields;
  fields.add("old", &old_one, "always there");
  fields.add_newer("newer", &newer, "not in older files");
  from_json(fields, Json{{"old", 3}}, "c.json");
  EXPECT_EQ(old_one, 3);
  EXPECT_EQ(newer, 2);
  EXPECT_EQ(to_json(fields).dump(), R"({"old":3,"newer":2})");
  from_json(fields, Json{{"old", 3}, {"newer", 4}}, "c.json");
  EXPECT_EQ(newer, 4);
  EXPECT_EQ(message_of([&] { from_json(fields, Json{{"newer", 4}}, "c.json"); }), "c.json: 'old' is missing");
}

}  // namespace
}  // namespace smoe
