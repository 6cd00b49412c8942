#include "smoe/base/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "smoe/base/quote.h"

namespace smoe {
namespace {

constexpr std::chrono::milliseconds kRedraw(100);
constexpr const char* kClearLine = "\r\x1b[K";

/// Columns that may be used without the terminal wrapping the line.
size_t usable_columns(std::FILE* out) {
  winsize size = {};
  const bool known = ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return (known ? size.ws_col : 80u) - 1u;
}

/// Number of UTF-8 characters.
size_t columns_of(std::string_view text) {
  return text.size() - static_cast<size_t>(std::count_if(text.begin(), text.end(), continues_character));
}

/// The first `columns` characters of UTF-8 text.
std::string cut(std::string_view text, size_t columns) {
  size_t end = 0;
  while (end < text.size()) {
    if (!continues_character(text[end]) && columns-- == 0) break;
    ++end;
  }
  return std::string(text.substr(0, end));
}

/// "[=====>    ]", `width` characters between the brackets.
std::string bar_text(double share, size_t width) {
  const size_t filled = static_cast<size_t>(share * static_cast<double>(width));
  std::string bar(width, ' ');
  std::fill_n(bar.begin(), filled, '=');
  if (filled < width) bar[filled] = '>';
  return "[" + bar + "]";
}

double share_of(int64_t done, int64_t total) {
  if (total <= 0) return 1.0;
  return std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
}

std::string percent_of(double share) { return std::to_string(static_cast<int>(share * 100.0)) + "%"; }

/// "title [===>   ] tail" in at most `columns`. The bar takes what the words leave; on a terminal too narrow for both, the
/// end of the words goes first.
std::string bar_line(const std::string& title, double share, const std::string& tail, size_t columns) {
  const size_t words = columns_of(title) + 3 + columns_of(tail);
  const size_t width = std::clamp<size_t>(columns > words ? columns - words : 0, 10, 40);
  return cut(title + " " + bar_text(share, width) + tail, columns);
}

bool is_terminal(std::FILE* out) { return out != nullptr && ::isatty(::fileno(out)) == 1; }

int64_t tenth_of(int64_t done, int64_t total) {
  if (total <= 0) return 10;
  return static_cast<int64_t>(std::clamp(10.0 * static_cast<double>(done) / static_cast<double>(total), 0.0, 10.0));
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds > 1e12) return "?:??";
  const int64_t whole = std::llround(std::max(seconds, 0.0));
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60;
  const auto two_digits = [](int64_t n) { return (n < 10 ? "0" : "") + std::to_string(n); };
  const std::string tail = ":" + two_digits(whole % 60);
  if (hours == 0) return std::to_string(minutes) + tail;
  return std::to_string(hours) + ":" + two_digits(minutes) + tail;
}

ProgressBar::ProgressBar(std::string title, int64_t first, int64_t total, std::FILE* out)
    : title_(std::move(title)),
      first_(first),
      total_(total),
      out_(out),
      terminal_(is_terminal(out)),
      last_done_(first),
      last_tenth_(tenth_of(first, total)),
      start_(Clock::now()) {}

ProgressBar::~ProgressBar() { finish(); }

void ProgressBar::update(int64_t done, const std::string& text) {
  if (finished_) return;
  last_done_ = done;
  last_text_ = text;
  if (terminal_) {
    const Clock::time_point now = Clock::now();
    if (drawn_ && now - last_draw_ < kRedraw) return;
    last_draw_ = now;
    draw();
  } else if (const int64_t tenth = tenth_of(done, total_); tenth > last_tenth_) {
    last_tenth_ = tenth;
    draw();
  }
}

void ProgressBar::draw() {
  if (out_ == nullptr) return;
  const double share = share_of(last_done_, total_);
  std::string left;
  if (last_done_ > first_ && last_done_ < total_) {
    const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    const double per_step = elapsed / static_cast<double>(last_done_ - first_);
    left = format_duration(per_step * static_cast<double>(total_ - last_done_)) + " left";
  }
  if (!terminal_) {
    std::string line = title_ + " " + percent_of(share);
    if (!last_text_.empty()) line += " " + last_text_;
    if (!left.empty()) line += "  " + left;
    std::fprintf(out_, "%s\n", line.c_str());
  } else {
    std::string tail = " " + percent_of(share);
    if (!last_text_.empty()) tail += " " + last_text_;
    if (!left.empty()) tail += "  " + left;
    std::fprintf(out_, "%s%s", kClearLine, bar_line(title_, share, tail, usable_columns(out_)).c_str());
    drawn_ = true;
  }
  std::fflush(out_);
}

void ProgressBar::note(const std::string& line) {
  if (out_ == nullptr) return;
  std::fprintf(out_, "%s%s\n", drawn_ && !finished_ ? kClearLine : "", line.c_str());
  if (drawn_ && !finished_) draw();
  std::fflush(out_);
}

void ProgressBar::finish() {
  if (std::exchange(finished_, true) || !drawn_) return;
  draw();  // the last update may have come too soon after the one before to be drawn
  std::fputc('\n', out_);
  std::fflush(out_);
}

ProgressBoard::ProgressBoard(std::FILE* out) : out_(out), terminal_(is_terminal(out)) {}

ProgressBoard::~ProgressBoard() { finish(); }

void ProgressBoard::show(std::vector<Line> lines) {
  lines_ = std::move(lines);
  if (!terminal_) return;
  clear();
  draw();
  std::fflush(out_);
}

void ProgressBoard::note(const std::string& line) {
  if (out_ == nullptr) return;
  clear();
  std::fprintf(out_, "%s\n", line.c_str());
  if (terminal_) draw();
  std::fflush(out_);
}

void ProgressBoard::finish() {
  if (std::exchange(drawn_, 0) == 0) return;
  std::fputc('\n', out_);
  std::fflush(out_);
}

void ProgressBoard::clear() {
  if (drawn_ > 1) std::fprintf(out_, "\x1b[%zuA", drawn_ - 1);
  if (drawn_ > 0) std::fputs("\r\x1b[J", out_);
  drawn_ = 0;
}

void ProgressBoard::draw() {
  const size_t columns = usable_columns(out_);
  for (const Line& line : lines_) {
    const double share = share_of(line.done, line.total);
    const std::string tail = " " + percent_of(share) + (line.text.empty() ? "" : " " + line.text);
    std::fprintf(out_, "%s%s", drawn_++ > 0 ? "\n" : "", bar_line(line.title, share, tail, columns).c_str());
  }
}

}  // namespace smoe
