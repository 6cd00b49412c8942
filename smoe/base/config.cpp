#include "smoe/base/config.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "smoe/base/config_values.h"
#include "smoe/base/error.h"
#include "smoe/base/quote.h"

namespace smoe {

bool LayerSelection::contains(int64_t layer) const {
  return all || std::find(ids.begin(), ids.end(), layer) != ids.end();
}

Allowed at_least(double min) {
  Allowed allowed;
  allowed.min = min;
  return allowed;
}

Allowed above(double min) {
  Allowed allowed;
  allowed.min = min;
  allowed.open_min = true;
  return allowed;
}

Allowed between(double min, double max) {
  Allowed allowed;
  allowed.min = min;
  allowed.max = max;
  return allowed;
}

Allowed one_of(std::vector<std::string> names) {
  Allowed allowed;
  allowed.names = std::move(names);
  return allowed;
}

void Fields::add(std::string_view key, FieldValue value, std::string_view help, Allowed allowed) {
  std::string name = prefix_ + std::string(key);
  const bool taken = std::any_of(fields_.begin(), fields_.end(), [&](const Field& f) { return f.name == name; });
  if (taken) throw std::logic_error("the field '" + name + "' is described twice");
  fields_.push_back(
      {.name = std::move(name), .value = value, .help = std::string(help), .allowed = std::move(allowed)});
}

std::vector<std::string> Fields::names() const {
  std::vector<std::string> names;
  for (const Field& field : fields_) names.push_back(field.name);
  return names;
}

const Field& Fields::find(std::string_view name) const {
  const auto found = std::find_if(fields_.begin(), fields_.end(), [&](const Field& f) { return f.name == name; });
  if (found != fields_.end()) return *found;
  throw UserError(concat("unknown key ", quoted_name(name), suggest_setting(*this, std::string(name))));
}

}  // namespace smoe
