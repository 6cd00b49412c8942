// Members of JSON objects from outside, each asked for with the type it must have.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"

namespace smoe {

/// A JSON object from outside, and its place for messages ("runs/a/metrics.jsonl:12"). Borrows the JSON. The constructor
/// and every function throw UserError naming the place where it is no object, or a member is missing or of another type.
class JsonObject {
 public:
  JsonObject(const nlohmann::json& json, std::string where) : json_(json), where_(std::move(where)) {
    require(json_.is_object(), where_, ": is not a JSON object");
  }

  const std::string& where() const { return where_; }
  bool has(const char* key) const { return json_.contains(key); }
  bool is_null(const char* key) const { return get(key).is_null(); }

  /// An integer of at least 0.
  int64_t integer(const char* key) const {
    const nlohmann::json& value = get(key);
    require(is_count(value), where_, ": \"", key, "\" must be an integer of at least 0");
    return value.get<int64_t>();
  }

  /// The same, or none for null.
  std::optional<int64_t> optional_integer(const char* key) const {
    if (is_null(key)) return std::nullopt;
    return integer(key);
  }

  double finite(const char* key) const {
    const nlohmann::json& value = get(key);
    require(value.is_number(), where_, ": \"", key, "\" must be a number");
    return value.get<double>();
  }

  /// NaN for null, which is what a log has in place of a number that is not finite.
  double number(const char* key) const { return is_null(key) ? std::numeric_limits<double>::quiet_NaN() : finite(key); }

  std::string text(const char* key) const {
    const nlohmann::json& value = get(key);
    require(value.is_string(), where_, ": \"", key, "\" must be a string");
    return value.get<std::string>();
  }

  const nlohmann::json& array(const char* key) const {
    const nlohmann::json& value = get(key);
    require(value.is_array(), where_, ": \"", key, "\" must be an array");
    return value;
  }

  /// The members of an object of integers of at least 0, by their names.
  std::vector<std::pair<std::string, int64_t>> integers(const char* key) const {
    const JsonObject inner = object(key);
    std::vector<std::pair<std::string, int64_t>> values;
    for (const auto& member : inner.json_.items()) {
      require(is_count(member.value()), inner.where_, ": must hold integers of at least 0");
      values.emplace_back(member.key(), member.value().get<int64_t>());
    }
    return values;
  }

  JsonObject object(const char* key) const { return {get(key), concat(where_, ": \"", key, "\"")}; }

 private:
  static bool is_count(const nlohmann::json& value) {
    constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
    return value.is_number_unsigned() ? value.get<uint64_t>() <= kMax
                                      : value.is_number_integer() && value.get<int64_t>() >= 0;
  }

  const nlohmann::json& get(const char* key) const {
    const auto found = json_.find(key);
    require(found != json_.end(), where_, ": \"", key, "\" is missing");
    return *found;
  }

  const nlohmann::json& json_;
  std::string where_;
};

}  // namespace smoe
