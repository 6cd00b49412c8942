#include "smoe/base/json_lines.h"

#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/json.h"

namespace smoe {
namespace {

/// The "step" of a line; nothing where it is no object with one.
template <class Json>
std::optional<int64_t> step_of(const Json& line) {
  if (!line.is_object()) return {};
  const auto step = line.find("step");
  if (step == line.end() || !step->is_number_integer()) return {};
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  if (step->is_number_unsigned() && step->template get<uint64_t>() > kMax) return {};
  return step->template get<int64_t>();
}

/// How many bytes of the log at `path` are whole lines up to the first with a step greater than `keep_through`.
uint64_t size_of_lines(const std::filesystem::path& path, int64_t keep_through) {
  const MappedFile file(path);
  const std::string_view text = as_text(file.bytes());
  size_t begin = 0;
  for (int64_t number = 1;; ++number) {
    const size_t end = text.find('\n', begin);
    if (end == std::string_view::npos) return begin;
    const std::string where = concat(path.string(), ":", number);
    const std::optional<int64_t> step = step_of(parse_json<nlohmann::json>(text.substr(begin, end - begin), where));
    require(step.has_value(), where, ": is not a JSON object with an integer \"step\"");
    if (*step > keep_through) return begin;
    begin = end + 1;
  }
}

}  // namespace

JsonLines::JsonLines(const std::filesystem::path& path, int64_t keep_through) {
  const bool keep = keep_through >= 0 && is_there(path);
  if (keep) truncate_file(path, size_of_lines(path, keep_through));
  file_ = std::make_unique<FileWriter>(path, /*append=*/keep);
}

void JsonLines::write(const nlohmann::ordered_json& line) {
  // Refused here, because the log could not be cut at the next resume.
  require(step_of(line).has_value(), "a line of a log must be a JSON object with an integer \"step\"");
  file_->write(line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void JsonLines::sync() { file_->sync(); }

}  // namespace smoe
