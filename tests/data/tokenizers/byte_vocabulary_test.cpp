// What is not in tests/data/corpus_test.cpp: larger and generated texts, and JSON from a stranger.
#include "smoe/data/tokenizers/byte_vocabulary.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include <nlohmann/json.hpp>

#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;

/// A text with `count[b]` bytes b, in an order that the seed gives.
std::string text_with(const std::vector<int>& count, uint64_t seed) {
  std::string text;
  for (size_t b = 0; b < count.size(); ++b) text.append(static_cast<size_t>(count[b]), static_cast<char>(b));
  std::shuffle(text.begin(), text.end(), std::mt19937_64(seed));
  return text;
}

TEST(ByteVocabulary, IdsGoByFallingFrequency) {
  std::vector<int> count(256, 0);
  int symbols = 0, tokens = 0;
  for (int b = 0; b < 256; ++b) {
    count[static_cast<size_t>(b)] = b % 5 == 3 ? 0 : 1 + (b * 37) % 256;  // all different where they are not zero
    if (b != '\n' && count[static_cast<size_t>(b)] > 0) ++symbols, tokens += count[static_cast<size_t>(b)];
  }
  const std::string text = text_with(count, 1);
  const ByteVocabulary vocabulary = ByteVocabulary::enwik8({as_bytes(text)});
  ASSERT_EQ(vocabulary.size(), symbols);
  EXPECT_EQ(vocabulary.id('\n'), -1);
  for (int64_t id = 1; id < vocabulary.size(); ++id) {
    ASSERT_GT(count[vocabulary.byte(id - 1)], count[vocabulary.byte(id)]) << id;
  }
  for (int b = 0; b < 256; ++b) {
    const int64_t id = vocabulary.id(static_cast<uint8_t>(b));
    ASSERT_EQ(id >= 0, b != '\n' && count[static_cast<size_t>(b)] > 0) << b;
    if (id >= 0) {
      ASSERT_EQ(vocabulary.byte(id), b);
    }
  }
  EXPECT_EQ(vocabulary.encode(as_bytes(text), "t").size(), static_cast<size_t>(tokens));
}

TEST(ByteVocabulary, TiesGoByFirstAppearanceInAnyPart) {
  const std::string parts[] = {"zzyx\n", "w", "wyx"};
  const ByteVocabulary vocabulary =
      ByteVocabulary::enwik8({as_bytes(parts[0]), as_bytes(parts[1]), as_bytes(parts[2])});
  std::string order;
  for (int64_t id = 0; id < vocabulary.size(); ++id) order += static_cast<char>(vocabulary.byte(id));
  EXPECT_EQ(order, "zyxw");  // each twice
}

TEST(ByteVocabulary, DecodingGivesTheTextWithoutItsLineBreaks) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 50; ++i) {
    std::string text;
    for (size_t n = random() % 500; n > 0; --n) text += static_cast<char>(random() % (1 + random() % 256));
    std::string without = text;
    std::erase(without, '\n');
    const ByteVocabulary vocabulary = ByteVocabulary::enwik8({as_bytes(text)});
    std::string decoded;
    for (const uint8_t id : vocabulary.encode(as_bytes(text), "t")) decoded += static_cast<char>(vocabulary.byte(id));
    ASSERT_EQ(decoded, without);
    const ByteVocabulary all = ByteVocabulary::bytes();
    const std::vector<uint8_t> same = all.encode(as_bytes(text), "t");
    ASSERT_EQ(std::string(same.begin(), same.end()), text);
  }
}

TEST(ByteVocabulary, NoBytesNoSymbols) {
  EXPECT_EQ(ByteVocabulary::enwik8({}).size(), 0);
  const std::string breaks = "\n\n\n";
  const ByteVocabulary vocabulary = ByteVocabulary::enwik8({as_bytes(breaks), as_bytes("")});
  EXPECT_EQ(vocabulary.size(), 0);
  EXPECT_TRUE(vocabulary.encode(as_bytes(breaks), "t").empty());
  EXPECT_NE(message_of([&] { vocabulary.encode(as_bytes("\n\xff"), "t"); }).find("0xFF at offset 1"),
            std::string::npos);
}

TEST(ByteVocabulary, JsonThatMeansSomethingElseIsRefused) {
  Json shuffled = ByteVocabulary::bytes().to_json();
  std::swap(shuffled["bytes"][65], shuffled["bytes"][66]);
  Json longer = ByteVocabulary::bytes().to_json();
  longer["bytes"].push_back(0);
  for (const Json& broken :
       {shuffled, longer, Json{{"format", "enwik8"}, {"bytes", {65, 10}}},
        Json{{"format", "enwik8"}, {"bytes", {65.5}}}, Json{{"format", "enwik8"}, {"bytes", {18446744073709551615u}}},
        Json{{"format", "enwik8"}, {"bytes", "abc"}}, Json{{"format", 1}, {"bytes", Json::array()}}, Json(nullptr),
        Json("bytes"), Json::object()}) {
    const std::string message = message_of([&] { ByteVocabulary::from_json(broken, "config.json"); });
    EXPECT_EQ(message.rfind("config.json: ", 0), 0u) << broken << ": " << message;
  }
}

TEST(ByteVocabulary, AnyJsonIsReadOrRefusedNeverHalfRead) {
  const std::string good = ByteVocabulary::enwik8({as_bytes("hello, world")}).to_json().dump();
  std::mt19937_64 random(3);
  int read = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    for (size_t changes = 1 + random() % 3; changes > 0; --changes) {
      text[random() % text.size()] = "0123456789,[]{}\":-.enwiktbys8"[random() % 29];
    }
    const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) continue;
    try {
      const ByteVocabulary vocabulary = ByteVocabulary::from_json(json, "t");
      ASSERT_EQ(vocabulary.to_json(), json) << text;
      ++read;
    } catch (const UserError&) {
    }
  }
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace smoe
