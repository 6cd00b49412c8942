#include "smoe/base/json.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/quote.h"

namespace smoe {
namespace {

/// " at line 3, column 7" of the byte at `place`; in a text of one line the column alone.
std::string position(std::string_view text, size_t place) {
  const std::string_view before = text.substr(0, place);
  const size_t column = before.size() - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const bool has_lines = text.substr(0, text.empty() ? 0 : text.size() - 1).find('\n') != std::string_view::npos;
  return has_lines ? concat(" at line ", line, ", column ", column) : concat(" at column ", column);
}

/// Builds a value event by event, and refuses what must not become one.
template <class Json>
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& source) : text_(text), source_(source) {}

  Json take() { return std::move(root_); }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(int64_t value) override { return put(value); }
  bool number_unsigned(uint64_t value) override { return put(value); }
  bool number_float(double value, const std::string& /*text*/) override { return put(value); }
  bool string(std::string& value) override { return put(std::move(value)); }
  bool binary(Json::binary_t& value) override { return put(std::move(value)); }

  bool start_object(size_t /*size*/) override {
    open(Json::object());
    names_.emplace_back();
    return true;
  }
  bool end_object() override {
    names_.pop_back();
    return close();
  }
  bool start_array(size_t /*size*/) override { return open(Json::array()); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    require(names_.back().insert(name).second, source_, ": ", quoted_name(name), " comes twice in one object");
    name_ = std::move(name);
    return true;
  }

  bool parse_error(size_t byte, const std::string& /*token*/, const nlohmann::detail::exception& error) override {
    constexpr int kNumberOutOfRange = 406;
    const std::string place = position(text_, byte > 0 ? byte - 1 : 0);
    if (error.id == kNumberOutOfRange) throw UserError(concat(source_, ": has a number that is too large", place));
    throw UserError(concat(source_, ": is not JSON", place));
  }

 private:
  bool put(Json value) {
    add(std::move(value));
    return true;
  }

  bool open(Json value) {
    require(open_.size() < kDeepestJson, source_, ": is nested more than ", kDeepestJson, " deep");
    open_.push_back(&add(std::move(value)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  /// Puts the value where the text has it. What it stands in grows no more while it is open itself, and stays in place.
  Json& add(Json value) {
    if (open_.empty()) return root_ = std::move(value);
    Json& outer = *open_.back();
    if (outer.is_array()) {
      outer.push_back(std::move(value));
      return outer.back();
    }
    auto& members = outer.template get_ref<typename Json::object_t&>();
    if constexpr (std::is_same_v<Json, nlohmann::ordered_json>) {
      // Not by the map's own functions, which look for the name in all members before.
      return members.emplace_back(std::move(name_), std::move(value)).second;
    } else {
      return members.emplace(std::move(name_), std::move(value)).first->second;
    }
  }

  std::string_view text_;
  const std::string& source_;
  Json root_;
  std::vector<Json*> open_;                   // the objects and arrays that are not at their end
  std::vector<std::set<std::string>> names_;  // of the members, for each object of these
  std::string name_;                          // of the next member
};

}  // namespace

template <class Json>
Json parse_json(std::string_view text, const std::string& source) {
  const size_t nul = text.find('\0');
  require(nul == std::string_view::npos, source, ": is not JSON: it has a NUL byte", position(text, nul));
  Builder<Json> builder(text, source);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

template nlohmann::json parse_json(std::string_view text, const std::string& source);
template nlohmann::ordered_json parse_json(std::string_view text, const std::string& source);

nlohmann::ordered_json read_json_object(const std::filesystem::path& path) {
  nlohmann::ordered_json json = parse_json(read_file(path, kLargestJsonFile), path.string());
  require(json.is_object(), path.string(), ": is not a JSON object");
  return json;
}

}  // namespace smoe
