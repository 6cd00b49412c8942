#include "smoe/base/json.h"

#include <gtest/gtest.h>

#include <limits>

#include <nlohmann/json.hpp>

#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

std::string fault(const std::string& text) {
  const std::string ordered = message_of([&] { parse_json(text, "x.json"); });
  EXPECT_EQ(message_of([&] { parse_json<nlohmann::json>(text, "x.json"); }), ordered);
  return ordered;
}

std::string nested(size_t depth, const std::string& open, const std::string& close) {
  std::string text, end;
  for (size_t i = 0; i < depth; ++i) {
    text += open;
    end += close;
  }
  return text + "1" + end;
}

TEST(Json, IsWhatNlohmannReads) {
  for (const std::string text :
       {"null", "true", "-7", "18446744073709551615", "-9223372036854775808", "0.5", "-1e-300", "\"é\\u0000\\n\"", "[]",
        "{}", " [1, [2, {\"a\": [3]}], {\"b\": {\"c\": null, \"a\": false}}, \"\"]\r\n", "{\"\": {\"\": [{}, []]}}",
        "\xEF\xBB\xBF{\"b\": 1, \"a\": 2}"}) {
    EXPECT_EQ(parse_json(text, "x"), nlohmann::ordered_json::parse(text)) << text;
    EXPECT_EQ(parse_json<nlohmann::json>(text, "x"), nlohmann::json::parse(text)) << text;
  }
  EXPECT_EQ(parse_json("{\"b\":1,\"a\":2}", "x").dump(), "{\"b\":1,\"a\":2}");  // in the order of the text
}

TEST(Json, SaysWhereItEnds) {
  EXPECT_EQ(fault(""), "x.json: is not JSON at column 1");
  EXPECT_EQ(fault("[1,"), "x.json: is not JSON at column 4");
  EXPECT_EQ(fault("{\"a\": 1}\n}"), "x.json: is not JSON at line 2, column 1");
  EXPECT_EQ(fault("{\n  \"a\": 01\n}\n"), "x.json: is not JSON at line 2, column 9");
  EXPECT_EQ(fault("[\"\xFF\"]\n"), "x.json: is not JSON at column 3");
  EXPECT_EQ(fault("{'a': 1}"), "x.json: is not JSON at column 2");
  EXPECT_EQ(fault("NaN"), "x.json: is not JSON at column 1");
  EXPECT_EQ(fault("[1e400]"), "x.json: has a number that is too large at column 6");
  EXPECT_EQ(fault("[1,\n-1e400\n]"), "x.json: has a number that is too large at line 2, column 6");
}

TEST(Json, RefusesBytesBehindANul) {
  EXPECT_EQ(fault(std::string("{}\0{}", 5)), "x.json: is not JSON: it has a NUL byte at column 3");
  EXPECT_EQ(fault(std::string("\0", 1)), "x.json: is not JSON: it has a NUL byte at column 1");
}

TEST(Json, RefusesNamesThatComeTwice) {
  EXPECT_EQ(fault("{\"a\":1,\"b\":{\"a\":1},\"a\":1}"), "x.json: 'a' comes twice in one object");
  EXPECT_EQ(fault("[{\"b\\n\":{},\"b\\n\":2}]"), "x.json: 'b\\n' comes twice in one object");
  EXPECT_EQ(fault("[{\"a\":1},{\"a\":{\"a\":1}}]"), "(nothing was thrown)");
}

TEST(Json, RefusesDepth) {
  for (const auto& [open, close] : {std::pair("[", "]"), {"{\"a\":", "}"}}) {
    EXPECT_EQ(fault(nested(kDeepestJson, open, close)), "(nothing was thrown)");
    EXPECT_EQ(fault(nested(kDeepestJson + 1, open, close)), "x.json: is nested more than 64 deep");
    EXPECT_EQ(fault(nested(1'000'000, open, "")), "x.json: is nested more than 64 deep");
  }
}

// So many that a reader that is quadratic in them makes the tests slow; how fast it is they do not judge.
TEST(Json, ReadsManyMembers) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) text += concat(i > 0 ? "," : "", "\"", i, "\":{}");
  EXPECT_EQ(parse_json(text + "}", "x").size(), 200'000u);
  EXPECT_EQ(parse_json("[" + text + "}]", "x")[0].size(), 200'000u);
}

TEST(Json, ReadsFilesThatHoldAnObject) {
  const TempFolder folder;
  const std::filesystem::path path = folder.put("x.json", "{\"a\": 1}\n");
  EXPECT_EQ(read_json_object(path)["a"], 1);
  const auto file_fault = [&](const std::string& text) {
    folder.put("x.json", text);
    return message_of([&] { read_json_object(path); }).substr(path.string().size());
  };
  EXPECT_EQ(file_fault("[1]"), ": is not a JSON object");
  EXPECT_EQ(file_fault("{"), ": is not JSON at column 2");
  EXPECT_EQ(file_fault("{}" + std::string(kLargestJsonFile, ' ')),
            ": is larger than such a file can be, which is 1048576 bytes");
  EXPECT_EQ(message_of([&] { read_json_object(folder / "none"); }),
            (folder / "none").string() + ": no such file or folder");
}

}  // namespace
}  // namespace smoe
