// The broken files of tests/formats/broken and what each reader says to them, one line that names the file, as in
// tests/formats/faults. And every cut and many a change of the good file, and what the fuzzer has found before.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "smoe/base/file.h"
#include "tests/formats/readers.h"

namespace smoe {

/// How GoogleTest shows what a test is about.
// NOLINTNEXTLINE(misc-use-internal-linkage,readability-identifier-naming): GoogleTest looks for it under this name
void PrintTo(const Format& format, std::ostream* out) { *out << format.name; }

namespace {

const std::filesystem::path kTests = std::filesystem::path(__FILE__).parent_path().parent_path();

/// The content of the files in a folder, by name.
std::map<std::string, std::string> files_in(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  if (!std::filesystem::exists(folder)) return files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files[entry.path().filename().string()] = read_file(entry.path());
  }
  return files;
}

class Formats : public testing::TestWithParam<Format> {
 protected:
  std::filesystem::path broken() const { return kTests / "formats/broken" / GetParam().name; }

  std::string good() const {
    for (const auto& [name, content] : files_in(broken())) {
      if (name.starts_with("good.")) return content;
    }
    return "";
  }

  const FormatPlace place_{GetParam()};
};

TEST_P(Formats, SayWhatIsWrong) {
  const std::map<std::string, std::string> files = files_in(broken());
  ASSERT_GT(files.size(), 5u) << broken();
  std::string faults;
  for (const auto& [name, content] : files) {
    const std::string fault = place_.fault(content);
    faults += name + "  " + (fault.empty() ? "(good)" : fault) + "\n";
  }
  const std::filesystem::path expected = kTests / "formats/faults" / (std::string(GetParam().name) + ".txt");
  if (std::getenv("SMOE_WRITE_FAULTS") != nullptr) write_file_atomic(expected, faults);
  EXPECT_EQ(faults, read_file(expected));
  EXPECT_EQ(place_.fault(good()), "");
}

TEST_P(Formats, SurviveEveryCut) {
  const std::string whole = good();
  ASSERT_FALSE(whole.empty());
  for (size_t size = 0; size < whole.size(); ++size) place_.fault(whole.substr(0, size));
}

TEST_P(Formats, SurviveChangedBytes) {
  const std::string whole = good();
  const std::string bytes("\0\xFF\"[-\n", 6);
  for (size_t place = 0; place < 2 * whole.size(); ++place) {
    std::string changed = whole;
    changed[place % whole.size()] = bytes[place % bytes.size()];
    place_.fault(changed);
  }
}

TEST_P(Formats, SurviveWhatTheFuzzerFound) {
  for (const auto& [name, content] : files_in(kTests / "fuzz/corpus" / GetParam().name)) {
    SCOPED_TRACE(name);
    place_.fault(content);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Formats, testing::ValuesIn(formats()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace smoe
