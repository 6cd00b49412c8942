#include "smoe/base/quote.h"

#include <gtest/gtest.h>

namespace smoe {
namespace {

TEST(Quote, LeavesWhatCanBeRead) {
  EXPECT_EQ(quoted_name("layers.0.\"w1\" \\ é → 😀"), "'layers.0.\"w1\" \\ é → 😀'");
  EXPECT_EQ(quoted_name(""), "''");
}

TEST(Quote, EscapesWhatSteersATerminal) {
  EXPECT_EQ(quoted_name("a\nb\tc\r\x1b[2J\x7f"), "'a\\nb\\tc\\u000D\\u001B[2J\\u007F'");
  EXPECT_EQ(printable(std::string_view("\0x", 2)), "\\u0000x");
  EXPECT_EQ(printable("\xC2\x9B"
                      "2J\xC2\xA0"),
            "\\u009B2J\xC2\xA0");  // a control of two bytes; a blank stays
}

TEST(Quote, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(printable("a\xFFz\xC3"), "a\xEF\xBF\xBDz\xEF\xBF\xBD");
  EXPECT_EQ(valid_utf8("\xED\xA0\x80é\n"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDé\n");  // half of a surrogate pair
}

TEST(Quote, CutsBetweenCharacters) {
  EXPECT_EQ(printable("abcdef", 6), "abcdef");
  EXPECT_EQ(printable("abcdef", 5), "abcde…");
  EXPECT_EQ(printable("aéé", 4), "aé…");
  EXPECT_EQ(printable("éé", 1), "…");
  EXPECT_EQ(printable("\xBF\xBF\xBF", 2), "…");  // no character begins in it
  EXPECT_EQ(printable(std::string(1'000'000, 'x')), std::string(120, 'x') + "…");
}

TEST(Quote, CountsWhatIsPrinted) {
  EXPECT_EQ(printable("\x01\x02\x03", 12), "\\u0001\\u0002…");
  EXPECT_EQ(printable("\x01\x02", 12), "\\u0001\\u0002");
  EXPECT_EQ(printable("\xFF\xFF\xFF", 6), "\xEF\xBF\xBD\xEF\xBF\xBD…");
  EXPECT_EQ(printable("a\nb", 3), "a\\n…");
  EXPECT_LE(quoted_name(std::string(120, '\x7f')).size(), 125U);
}

}  // namespace
}  // namespace smoe
