#include "smoe/base/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <limits>
#include <regex>
#include <thread>
#include <vector>

namespace smoe {
namespace {

/// A file that is no terminal, and what was written to it.
class PlainOutput {
 public:
  PlainOutput() = default;
  ~PlainOutput() { std::fclose(file_); }
  PlainOutput(const PlainOutput&) = delete;
  PlainOutput& operator=(const PlainOutput&) = delete;
  std::FILE* file() const { return file_; }
  std::string text() const {
    std::rewind(file_);
    std::string text(4096, '\0');
    text.resize(std::fread(text.data(), 1, text.size(), file_));
    return text;
  }

 private:
  std::FILE* file_ = std::tmpfile();
};

/// A terminal of a given width, and what was written to it.
class Terminal {
 public:
  explicit Terminal(unsigned short columns) : master_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    ::grantpt(master_);
    ::unlockpt(master_);
    file_ = std::fopen(::ptsname(master_), "w");
    winsize size = {};
    size.ws_row = 24;
    size.ws_col = columns;
    ::ioctl(master_, TIOCSWINSZ, &size);
  }
  ~Terminal() {
    std::fclose(file_);
    ::close(master_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  std::FILE* file() const { return file_; }

  /// What was written since the last call.
  std::string text() const {
    // What is written arrives in pieces and later, but in its order: all is there once the mark behind it is.
    constexpr char kMark = '\a';
    std::fputc(kMark, file_);
    std::fflush(file_);
    std::string text;
    for (char c = 0; ::read(master_, &c, 1) == 1 && c != kMark;) text += c;
    return text;
  }

  /// The same, cut at each redraw of the line.
  std::vector<std::string> drawn() const {
    const std::string text = this->text();
    std::vector<std::string> lines;
    const std::string redraw = "\r\x1b[K";
    for (size_t begin = text.find(redraw); begin != std::string::npos;) {
      begin += redraw.size();
      const size_t end = text.find(redraw, begin);
      lines.push_back(text.substr(begin, end == std::string::npos ? end : end - begin));
      begin = end;
    }
    return lines;
  }

 private:
  int master_;
  std::FILE* file_ = nullptr;
};

TEST(Progress, FormatsDurations) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(6.6), "0:07");
  EXPECT_EQ(format_duration(59.7), "1:00");
  EXPECT_EQ(format_duration(245), "4:05");
  EXPECT_EQ(format_duration(3723), "1:02:03");
  EXPECT_EQ(format_duration(360000), "100:00:00");
  EXPECT_EQ(format_duration(-1), "0:00");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?:??");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::quiet_NaN()), "?:??");
}

TEST(Progress, PrintsALineAtEachTenthElsewhere) {
  const PlainOutput out;
  {
    ProgressBar bar("train", 0, 1000, out.file());
    for (int64_t step = 1; step <= 1000; ++step) bar.update(step, "loss 1.5");
  }
  std::string expected;
  for (int tenth = 1; tenth < 10; ++tenth) expected += "train " + std::to_string(10 * tenth) + "% loss 1.5 TIME\n";
  const std::string text = std::regex_replace(out.text(), std::regex(" [0-9:]+ left"), "TIME");
  EXPECT_EQ(text, expected + "train 100% loss 1.5\n");
}

TEST(Progress, StartsWhereARunResumes) {
  const PlainOutput out;
  ProgressBar bar("train", 950, 1000, out.file());
  for (int64_t step = 951; step <= 1000; ++step) bar.update(step, "");
  EXPECT_EQ(out.text(), "train 100%\n");
}

TEST(Progress, PrintsNotesElsewhere) {
  const PlainOutput out;
  ProgressBar bar("train", 0, 10, out.file());
  bar.note("saved");
  bar.finish();
  bar.note("done");
  EXPECT_EQ(out.text(), "saved\ndone\n");
}

TEST(Progress, EndsWhereThereIsNothingToDo) {
  const PlainOutput out;
  ProgressBar bar("train", 0, 0, out.file());
  bar.update(0, "");
  EXPECT_EQ(out.text(), "");
}

TEST(Progress, RedrawsOneLineOnATerminal) {
  const Terminal terminal(60);
  ProgressBar bar("train", 0, 100, terminal.file());
  bar.update(0, "loss 2");
  EXPECT_EQ(terminal.drawn(), (std::vector<std::string>{"train [>                                       ] 0% loss 2"}));
  for (int64_t step = 1; step <= 50; ++step) bar.update(step, "loss 1");  // most come too soon to be drawn
  bar.update(100, "loss 1");
  bar.finish();
  bar.finish();
  const std::vector<std::string> drawn = terminal.drawn();
  ASSERT_FALSE(drawn.empty());
  EXPECT_LT(drawn.size(), 25u);
  EXPECT_EQ(drawn.back(), "train [=======================================] 100% loss 1\r\n");
}

TEST(Progress, FitsTheTerminal) {
  for (const unsigned short columns : {1, 10, 20, 40, 79, 200}) {
    const Terminal terminal(columns);
    ProgressBar bar("trän", 0, 100, terminal.file());
    bar.update(0, "ππππππππππππππππππππππππππππππππ");
    const std::vector<std::string> drawn = terminal.drawn();
    ASSERT_EQ(drawn.size(), columns > 1 ? 1u : drawn.size());
    size_t characters = 0;
    for (const char c : drawn.empty() ? "" : drawn[0]) characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    EXPECT_LT(characters, columns);
  }
}

TEST(Progress, KeepsTheBarBelowANote) {
  const Terminal terminal(60);
  ProgressBar bar("train", 0, 4, terminal.file());
  bar.update(0, "");
  bar.note("saved");
  const std::string line = "train [>                                       ] 0%";
  EXPECT_EQ(terminal.drawn(), (std::vector<std::string>{line, "saved\r\n", line}));
}

TEST(Progress, ShowsTheTimeLeft) {
  const Terminal terminal(80);
  ProgressBar bar("train", 0, 101, terminal.file());
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  bar.update(1, "");
  const std::vector<std::string> drawn = terminal.drawn();
  ASSERT_EQ(drawn.size(), 1u);
  EXPECT_NE(drawn[0].find("]  0% "), 0u);
  EXPECT_TRUE(drawn[0].ends_with(" left")) << drawn[0];
  EXPECT_EQ(drawn[0].find("0:00 left"), std::string::npos) << drawn[0];
}

TEST(ProgressBoard, DrawsItsBarsBelowEachOtherAndInPlace) {
  const Terminal terminal(60);
  ProgressBoard board(terminal.file());
  board.show({{"all", 1, 4, "1 of 4"}, {"run", 5, 10, ""}});
  const std::string all = "all [==========>                             ] 25% 1 of 4";
  const std::string run = "run [====================>                   ] 50%";
  EXPECT_EQ(terminal.text(), all + "\r\n" + run);
  board.note("done");
  EXPECT_EQ(terminal.text(), "\x1b[1A\r\x1b[Jdone\r\n" + all + "\r\n" + run);
  board.show({{"all", 4, 4, ""}});
  EXPECT_EQ(terminal.text(), "\x1b[1A\r\x1b[Jall [========================================] 100%");
  board.finish();
  EXPECT_EQ(terminal.text(), "\r\n");
}

TEST(ProgressBoard, ElsewherePrintsNotesOnly) {
  const PlainOutput output;
  ProgressBoard board(output.file());
  board.show({{"all", 1, 4, ""}});
  board.note("one");
  board.finish();
  EXPECT_EQ(output.text(), "one\n");
  ProgressBoard silent(nullptr);
  silent.show({{"all", 1, 4, ""}});
  silent.note("nothing");
}

}  // namespace
}  // namespace smoe
