// A progress bar on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace smoe {

/// Shows how far a loop is, with text of its own and the time left. On a terminal it redraws one line, at most ten
/// times a second; elsewhere it prints a line at every tenth of the way. Writes to `out` only, and nothing where
/// that is null.
class ProgressBar {
 public:
  /// `first` is where the loop starts (a resumed run), `total` where it ends.
  ProgressBar(std::string title, int64_t first, int64_t total, std::FILE* out = stderr);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// `done` of `total` steps are done; `text` stands behind the bar.
  void update(int64_t done, const std::string& text);
  /// Prints a line above the bar.
  void note(const std::string& line);
  /// Ends the bar's line. Called by the destructor.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void draw();

  std::string title_;
  int64_t first_, total_;
  std::FILE* out_;
  bool terminal_, drawn_ = false, finished_ = false;
  int64_t last_done_, last_tenth_;
  std::string last_text_;
  Clock::time_point start_, last_draw_;
};

/// Several bars below each other, for work that goes on side by side. On a terminal they are redrawn in place; elsewhere
/// only the notes are printed. Writes to `out` only, and nothing where that is null.
class ProgressBoard {
 public:
  struct Line {
    std::string title;
    int64_t done = 0, total = 0;
    std::string text;  ///< stands behind the bar
  };

  explicit ProgressBoard(std::FILE* out = stderr);
  ~ProgressBoard();
  ProgressBoard(const ProgressBoard&) = delete;
  ProgressBoard& operator=(const ProgressBoard&) = delete;

  /// The bars as they are now.
  void show(std::vector<Line> lines);
  /// Prints a line above the bars.
  void note(const std::string& line);
  /// Leaves the bars as they stand and goes to the line below. Called by the destructor.
  void finish();

 private:
  void clear();
  void draw();

  std::FILE* out_;
  bool terminal_;
  std::vector<Line> lines_;
  size_t drawn_ = 0;  ///< lines on the terminal
};

/// "1:02:03", "4:05" or "0:07" for a number of seconds.
std::string format_duration(double seconds);

}  // namespace smoe
