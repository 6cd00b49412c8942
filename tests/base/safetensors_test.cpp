#include "smoe/base/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/base/temp_folder.h"

namespace smoe {
namespace {

std::string length_text(uint64_t length) {
  std::string text(8, '\0');
  for (size_t i = 0; i < 8; ++i) text[i] = static_cast<char>(length >> (8 * i));
  return text;
}

std::string file_text(const std::string& header, const std::string& data) {
  return length_text(header.size()) + header + data;
}

std::string file_fault(const std::string& file) {
  return message_of([&] { parse_safetensors(as_bytes(file), "x"); });
}

/// The fault of a file whose header has these entries and whose data are `size` zeros.
std::string header_fault(const std::string& entries, size_t size) {
  return file_fault(file_text("{" + entries + "}", std::string(size, '\0')));
}

/// A file with several dtypes, ranks, an empty tensor and metadata.
std::string good_file() {
  return file_text(
      "{\"__metadata__\":{\"format\":\"pt\",\"é\":\"\"},"
      "\"w\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
      "\"b\":{\"shape\":[3],\"data_offsets\":[16,22],\"dtype\":\"BF16\"},"
      "\"none\":{\"dtype\":\"I64\",\"shape\":[0,5],\"data_offsets\":[16,16]},"
      "\"flags\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[22,24]},"
      "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[24,25]}}  ",
      std::string("0123456789abcdefABCDEF\0\1z", 25));
}

TEST(Safetensors, KnowsTheDtypes) {
  EXPECT_EQ(safetensors_element_size("BOOL"), 1u);
  EXPECT_EQ(safetensors_element_size("F8_E4M3"), 1u);
  EXPECT_EQ(safetensors_element_size("BF16"), 2u);
  EXPECT_EQ(safetensors_element_size("F32"), 4u);
  EXPECT_EQ(safetensors_element_size("I64"), 8u);
  EXPECT_EQ(safetensors_element_size("f32"), 0u);
}

TEST(Safetensors, ReadsAFile) {
  const std::string file = good_file();
  const SafetensorsView view = parse_safetensors(as_bytes(file), "x");
  EXPECT_EQ(view.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"é", ""}}));
  std::vector<std::string> names;
  for (const TensorBytes& tensor : view.tensors) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"w", "none", "b", "flags", "one"}));  // in the order of their bytes
  ASSERT_NE(view.find("b"), nullptr);
  EXPECT_EQ(view.find("b")->dtype, "BF16");
  EXPECT_EQ(view.find("b")->shape, std::vector<int64_t>{3});
  EXPECT_EQ(as_text(view.find("b")->bytes), "ABCDEF");
  EXPECT_EQ(as_text(view.find("w")->bytes), "0123456789abcdef");
  EXPECT_EQ(view.find("none")->shape, (std::vector<int64_t>{0, 5}));
  EXPECT_TRUE(view.find("one")->shape.empty());
  EXPECT_EQ(view.find("W"), nullptr);
  EXPECT_EQ(view.find("__metadata__"), nullptr);
}

TEST(Safetensors, ReadsAnEmptyFile) {
  const std::string file = file_text("{}", "");
  EXPECT_TRUE(parse_safetensors(as_bytes(file), "x").tensors.empty());
}

// Written by the Python package; see tests/formats/README.md.
TEST(Safetensors, ReadsAFileOfThePythonPackage) {
  const MappedFile file(std::filesystem::path(__FILE__).parent_path() / "../formats/python.safetensors");
  const SafetensorsView view = parse_safetensors(file.bytes(), "x");
  EXPECT_EQ(view.metadata, (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_EQ(view.tensors.size(), 16u);
  for (const TensorBytes& tensor : view.tensors) {
    if (tensor.name == "empty") continue;
    EXPECT_EQ(tensor.name, tensor.dtype);  // each dtype of the format under its own name
    EXPECT_EQ(tensor.shape, (std::vector<int64_t>{3, 1}));
  }
  EXPECT_EQ(view.find("empty")->shape, (std::vector<int64_t>{2, 0, 4}));
  EXPECT_EQ(as_text(view.find("I16")->bytes), std::string("\0\0\1\0\1\0", 6));
  EXPECT_EQ(as_text(view.find("BF16")->bytes), std::string("\0\0\x80\x3f\x80\x3f", 6));
}

// Read by the Python package in tests/python/safetensors_test.py; see tests/formats/README.md.
TEST(Safetensors, WritesAFileForThePythonPackage) {
  const std::filesystem::path formats = std::filesystem::path(__FILE__).parent_path() / "../formats";
  const MappedFile python(formats / "python.safetensors");
  std::vector<TensorBytes> tensors = {{"three bytes, so that no other is aligned", "U8", {3}, as_bytes("abc")},
                                      {"", "I64", {}, as_bytes("12345678")},
                                      {"quote \" line \n é", "F32", {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, as_bytes("1234")}};
  const SafetensorsView view = parse_safetensors(python.bytes(), "x");
  for (const size_t i : view.by_name) tensors.push_back(view.tensors[i]);
  const TempFolder folder;
  write_safetensors(folder / "x", tensors, {{"format", "pt"}, {"é\n", ""}});
  EXPECT_EQ(read_file(folder / "x"), read_file(formats / "smoe.safetensors"));
}

TEST(Safetensors, WritesWhatItReads) {
  const TempFolder folder;
  const std::string file = good_file();
  const SafetensorsView view = parse_safetensors(as_bytes(file), "x");
  write_safetensors(folder / "one", view.tensors, view.metadata);
  write_safetensors(folder / "two", view.tensors, view.metadata);
  const std::string written = read_file(folder / "one");
  EXPECT_EQ(written, read_file(folder / "two"));
  uint64_t header_size = 0;
  std::memcpy(&header_size, written.data(), 8);
  EXPECT_EQ(header_size % 8, 0u);
  const SafetensorsView again = parse_safetensors(as_bytes(written), "y");
  EXPECT_EQ(again.metadata, view.metadata);
  ASSERT_EQ(again.tensors.size(), view.tensors.size());
  for (size_t i = 0; i < view.tensors.size(); ++i) {
    EXPECT_EQ(again.tensors[i].name, view.tensors[i].name);
    EXPECT_EQ(again.tensors[i].dtype, view.tensors[i].dtype);
    EXPECT_EQ(again.tensors[i].shape, view.tensors[i].shape);
    EXPECT_EQ(as_text(again.tensors[i].bytes), as_text(view.tensors[i].bytes));
  }
}

TEST(Safetensors, WritesTheDocumentedBytes) {
  const TempFolder folder;
  write_safetensors(folder / "x", {{"a\"b", "I16", {2}, as_bytes("1234")}}, {});
  EXPECT_EQ(read_file(folder / "x"),
            file_text("{\"a\\\"b\":{\"dtype\":\"I16\",\"shape\":[2],\"data_offsets\":[0,4]}}       ", "1234"));
}

TEST(Safetensors, RefusesToWriteWhatItWouldNotRead) {
  const TempFolder folder;
  const std::string path = (folder / "x").string();
  const auto write_fault = [&](const std::vector<TensorBytes>& tensors) {
    return message_of([&] { write_safetensors(path, tensors, {}); }).substr(path.size());
  };
  const TensorBytes good = {"a", "U8", {4}, as_bytes("1234")};
  EXPECT_EQ(write_fault({good, good}), ": 'a' cannot be a tensor's name, or comes twice");
  EXPECT_EQ(write_fault({{"__metadata__", "U8", {4}, good.bytes}}),
            ": '__metadata__' cannot be a tensor's name, or comes twice");
  EXPECT_EQ(write_fault({{"a", "U7", {4}, good.bytes}}), ": 'a' has the unknown dtype 'U7'");
  EXPECT_EQ(write_fault({{"a", "F32", {4}, good.bytes}}), ": 'a' has 4 bytes, its shape and dtype need 16");
  EXPECT_EQ(write_fault({{"a", "U8", {-4}, good.bytes}}), ": 'a' has a negative dimension or overflows");
  EXPECT_EQ(write_fault({{"a\xff", "U8", {4}, good.bytes}}), ": a name or the metadata is not valid UTF-8");
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Safetensors, SaysThatTheDiskIsFull) { EXPECT_THROW(write_safetensors("/dev/full", {}, {}), Failure); }

TEST(Safetensors, RefusesLyingLengths) {
  EXPECT_EQ(file_fault(""), "x: is 0 bytes, which is too short for a safetensors file");
  EXPECT_EQ(file_fault("1234567"), "x: is 7 bytes, which is too short for a safetensors file");
  EXPECT_EQ(file_fault(length_text(3) + "{}"), "x: is cut short: its header should be 3 bytes, 2 are there");
  EXPECT_EQ(file_fault(length_text(~uint64_t{0}) + "{}"),
            "x: is not a safetensors file, or damaged: its header would be 18446744073709551615 bytes, the format "
            "allows 100000000");
  EXPECT_EQ(file_fault(length_text(0)), "x: is not a safetensors file: its header does not begin with '{'");
  EXPECT_EQ(file_fault(file_text(" {}", "")), "x: is not a safetensors file: its header does not begin with '{'");
  EXPECT_EQ(file_fault(file_text("{} x", "")), "x: the header is not valid JSON at its byte 4");
  EXPECT_EQ(file_fault(file_text("{}{}", "")), "x: the header is not valid JSON at its byte 3");
  EXPECT_EQ(file_fault(file_text("{\"a\xff\":{}}", "")), "x: the header is not valid JSON at its byte 4");
  EXPECT_EQ(file_fault(file_text(std::string("{}\0hidden", 9), "")), "x: the header is not valid JSON at its byte 3");
}

TEST(Safetensors, RefusesLyingRanges) {
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})", 3),
            "x: has 1 bytes after its last tensor");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})", 1),
            "x: 'a' has the bytes 0 to 2, the file has 1 bytes of data");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]})", 2),
            "x: 'a' has the bytes 2 to 0, the file has 2 bytes of data");
  EXPECT_EQ(
      header_fault(R"("a":{"dtype":"U8","shape":[2],"data_offsets":[9223372036854775805,9223372036854775807]})", 2),
      "x: 'a' has the bytes 9223372036854775805 to 9223372036854775807, the file has 2 bytes of data");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]})", 3),
            "x: 'a' leaves a hole before it");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                            "b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]})",
                         3),
            "x: 'b' overlaps the tensor before it");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                            "b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]})",
                         5),
            "x: 'b' leaves a hole before it");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                            "b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]})",
                         2),
            "x: 'b' overlaps the tensor before it");
}

TEST(Safetensors, RefusesLyingShapesAndDtypes) {
  EXPECT_EQ(header_fault(R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,2]})", 2),
            "x: 'a' has 2 bytes, its shape and dtype need 8");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"F4","shape":[2],"data_offsets":[0,2]})", 2),
            "x: 'a' has the unknown dtype 'F4'");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[-2],"data_offsets":[0,2]})", 2),
            "x: 'a': 'shape' must be an array of non-negative 64-bit integers, got -2");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[2.0],"data_offsets":[0,2]})", 2),
            "x: 'a': 'shape' must be an array of non-negative 64-bit integers, got 2.0");
  for (const char* shape :
       {"4294967296,4294967296", "9223372036854775807,2", "0,4294967296,4294967296", "4611686018427387904,4"}) {
    EXPECT_EQ(header_fault(concat(R"("a":{"dtype":"U8","shape":[)", shape, R"(],"data_offsets":[0,0]})"), 0),
              "x: 'a' has a shape that overflows");
  }
  EXPECT_EQ(header_fault(R"("a":{"dtype":"F64","shape":[1152921504606846976],"data_offsets":[0,0]})", 0),
            "x: 'a' has a shape that overflows");
  for (const char* size : {"9223372036854775808", "18446744073709551616", "1e3"}) {
    EXPECT_EQ(header_fault(concat(R"("a":{"dtype":"U8","shape":[)", size, R"(],"data_offsets":[0,0]})"), 0),
              concat("x: 'a': 'shape' must be an array of non-negative 64-bit integers, got ", size));
  }
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[0.)" + std::string(1000, '1') + "]}", 0),
            "x: 'a': 'shape' must be an array of non-negative 64-bit integers, got 0." + std::string(118, '1') + "…");
  std::string ones = "1";
  for (int i = 1; i < 64; ++i) ones += ",1";
  const auto of_shape = [](const std::string& shape) {
    return R"("a":{"dtype":"U8","shape":[)" + shape + R"(],"data_offsets":[0,1]})";
  };
  EXPECT_EQ(header_fault(of_shape(ones), 1), "(nothing was thrown)");
  EXPECT_EQ(header_fault(of_shape(ones + ",1"), 1), "x: 'a': 'shape' has more than 64 numbers");
  EXPECT_EQ(file_fault(file_text(R"({"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", "\x01\x02")),
            "x: 'a' is BOOL and has bytes other than 0 and 1");
}

TEST(Safetensors, RefusesOtherHeaders) {
  EXPECT_EQ(header_fault(R"("a":1)", 0), "x: 'a' must be a JSON object, got 1");
  EXPECT_EQ(header_fault(R"("a":[])", 0), "x: 'a' must be a JSON object, got an array");
  EXPECT_EQ(header_fault(R"("a":{})", 0), "x: 'a' has no dtype");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8"})", 0), "x: 'a' has no shape");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[0]})", 0), "x: 'a' needs data_offsets of two numbers");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0]})", 0),
            "x: 'a' needs data_offsets of two numbers");
  EXPECT_EQ(header_fault(R"("a":{"data_offsets":[0,0,0]})", 0), "x: 'a': 'data_offsets' has more than 2 numbers");
  EXPECT_EQ(header_fault(R"("a":{"dtype":3})", 0), "x: 'a': 'dtype' must be a string, got 3");
  EXPECT_EQ(header_fault(R"("a":{"shape":"2"})", 0), "x: 'a': 'shape' must be an array of integers, got a string");
  EXPECT_EQ(header_fault(R"("a":{"shape":null})", 0), "x: 'a': 'shape' must be an array of integers, got null");
  EXPECT_EQ(header_fault(R"("a":{"shape":[[1]]})", 0),
            "x: 'a': 'shape' must be an array of non-negative 64-bit integers, got an array");
  EXPECT_EQ(header_fault(R"("a":{"stride":[1]})", 0), "x: 'a': 'stride' is not a key of the format");
  EXPECT_EQ(header_fault(R"("__metadata__":{"a":1})", 0), "x: '__metadata__': 'a' must be a string, got 1");
  EXPECT_EQ(header_fault(R"("__metadata__":[])", 0), "x: '__metadata__' must be a JSON object, got an array");
  EXPECT_EQ(header_fault("\"a\\n\":1", 0), "x: 'a\\n' must be a JSON object, got 1");  // no message of two lines
}

TEST(Safetensors, RefusesWhatComesTwice) {
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                            "a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]})",
                         2),
            "x: 'a' comes twice");
  EXPECT_EQ(header_fault(R"("a":{"dtype":"U8","dtype":"U8"})", 0), "x: 'a': 'dtype' comes twice");
  EXPECT_EQ(header_fault(R"("a":{"shape":[],"shape":[]})", 0), "x: 'a': 'shape' comes twice");
  EXPECT_EQ(header_fault(R"("a":{"data_offsets":[],"data_offsets":[]})", 0), "x: 'a': 'data_offsets' comes twice");
  EXPECT_EQ(header_fault(R"("__metadata__":{"a":"","a":""})", 0), "x: '__metadata__': 'a' comes twice");
  EXPECT_EQ(header_fault(R"("__metadata__":{},"__metadata__":{})", 0), "x: '__metadata__' comes twice");
}

TEST(Safetensors, SurvivesDepth) {
  EXPECT_THROW(parse_safetensors(as_bytes(file_text("{\"a\":" + std::string(1'000'000, '['), "")), "x"), UserError);
  std::string objects = "{";
  for (int i = 0; i < 100'000; ++i) objects += "\"a\":{";
  EXPECT_THROW(parse_safetensors(as_bytes(file_text(objects, "")), "x"), UserError);
}

TEST(Safetensors, RefusesEveryTruncation) {
  const std::string file = good_file();
  for (size_t size = 0; size < file.size(); ++size)
    EXPECT_NE(file_fault(file.substr(0, size)), "(nothing was thrown)") << size;
  EXPECT_EQ(file_fault(file), "(nothing was thrown)");
  EXPECT_NE(file_fault(file + "x"), "(nothing was thrown)");
}

TEST(Safetensors, SurvivesAnyMutation) {
  const std::string file = good_file();
  std::mt19937 random(1);
  const auto below = [&](size_t n) { return random() % n; };
  int refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string changed = file;
    for (size_t change = below(4) + 1; change > 0; --change) {
      const size_t place = below(changed.size()), length = below(std::min<size_t>(changed.size() - place, 12)) + 1;
      switch (below(4)) {
        case 0: changed[place] = static_cast<char>(random()); break;
        case 1: changed[place] = "0123456789-.[]{},:\"e"[below(20)]; break;
        case 2: changed.insert(place, changed.substr(place, length)); break;
        default: changed.erase(place, length);
      }
      if (changed.empty()) break;
      if (below(2) == 0 && changed.size() > 40) changed.replace(0, 8, length_text(changed.size() - 33));
    }
    refused += file_fault(changed) != "(nothing was thrown)";
  }
  EXPECT_GT(refused, 15'000);
}

// So many that a reader that is quadratic in them makes the tests slow; how fast it is they do not judge.
TEST(Safetensors, ReadsManyTensors) {
  constexpr int64_t kCount = 100'000;
  std::string header = "{";
  for (int64_t i = 0; i < kCount; ++i) {
    header += concat(i > 0 ? "," : "", "\"layers.", (i * 7919) % kCount,
                     "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[", i, ",", i + 1, "]}");
  }
  const std::string file = file_text(header + "}", std::string(kCount, 'x'));
  const SafetensorsView view = parse_safetensors(as_bytes(file), "x");
  for (const TensorBytes& tensor : view.tensors) ASSERT_EQ(view.find(tensor.name), &tensor);
  EXPECT_EQ(view.tensors.size(), static_cast<size_t>(kCount));
}

}  // namespace
}  // namespace smoe
