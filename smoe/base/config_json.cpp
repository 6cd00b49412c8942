// Settings in JSON: config.json of a checkpoint.
#include <limits>
#include <set>

#include <nlohmann/json.hpp>

#include "smoe/base/config.h"
#include "smoe/base/config_values.h"
#include "smoe/base/error.h"
#include "smoe/base/quote.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;

struct ToJson {
  Json operator()(const int64_t* v) const { return *v; }
  Json operator()(const double* v) const { return *v; }
  Json operator()(const bool* v) const { return *v; }
  Json operator()(const std::string* v) const { return *v; }
  Json operator()(const LayerSelection* v) const {
    if (v->all) return "all";
    return v->ids.empty() ? Json("none") : Json(v->ids);
  }
  Json operator()(const std::vector<int64_t>* v) const { return *v; }
};

bool is_int64(const Json& json) {
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  return json.is_number_integer() && !(json.is_number_unsigned() && json.get<uint64_t>() > kMax);
}

std::string json_type_text(const Json& json) {
  if (json.is_null()) return "null";
  const std::string name = json.type_name();
  return (json.is_object() || json.is_array() ? "an " : "a ") + name;
}

RawValue to_raw(const Json& json) {
  if (is_int64(json)) return json.get<int64_t>();
  if (json.is_number_integer()) return NoValue{json.dump() + ", which 64 bits do not hold"};
  if (json.is_number_float()) return json.get<double>();
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_string()) return json.get<std::string>();
  if (!json.is_array()) return NoValue{json_type_text(json)};
  std::vector<int64_t> values;
  for (const Json& item : json) {
    if (!is_int64(item))
      return NoValue{"an array with " + (item.is_number() ? "another number" : json_type_text(item))};
    values.push_back(item.get<int64_t>());
  }
  return values;
}

/// Sets the fields that `json` gives and adds their names to `seen`.
void assign_all(const Fields& fields, const Json& json, const std::string& prefix, const std::string& source, int depth,
                std::set<std::string>& seen) {
  for (const auto& [key, value] : json.items()) {
    const std::string name = prefix + key;
    if (value.is_object() && !value.empty() && depth < kDeepestTable) {
      assign_all(fields, value, name + ".", source, depth + 1, seen);
    } else if (!value.is_object() || !is_table(fields, name)) {
      require(seen.insert(name).second, source, ": ", quoted_name(name), " comes twice");
      assign(fields, {name, to_raw(value), source});
    }
  }
}

}  // namespace

Json to_json(const Fields& fields) {
  Json json = Json::object();
  for (const Field& field : fields.all()) {
    if (!field.applies()) continue;
    Json* place = &json;
    size_t begin = 0;
    for (size_t dot = field.name.find('.'); dot != std::string::npos; dot = field.name.find('.', begin)) {
      place = &(*place)[field.name.substr(begin, dot - begin)];
      begin = dot + 1;
    }
    (*place)[field.name.substr(begin)] = std::visit(ToJson(), field.value);
  }
  return json;
}

void from_json(const Fields& fields, const Json& json, const std::string& source) {
  require(json.is_object(), source, ": the configuration must be a JSON object, got ", json.type_name());
  std::set<std::string> seen;
  assign_all(fields, json, "", source, 0, seen);
  for (const std::string& name : seen) check_applies(fields, {name, {}, source});
  for (const Field& field : fields.all()) {
    const bool needed = field.applies() && !field.may_be_missing;
    require(!needed || seen.contains(field.name), source, ": '", field.name, "' is missing");
  }
}

}  // namespace smoe
