// smoe list: the tables of kinds, by the names that recipes use.
#include <cstdio>
#include <memory>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/base/suggest.h"
#include "smoe/models/model.h"
#include "smoe/moe/experts.h"
#include "smoe/train/objective.h"
#include "smoe/train/recipe.h"

namespace smoe::cli {
namespace {

using Json = nlohmann::ordered_json;

/// The setting of that name, or those of the table of that name, and their defaults.
Json defaults_of(const std::string& name) {
  Recipe recipe;
  Json defaults = Json::object();
  const Fields fields = recipe.fields();
  for (const Field& field : fields.all()) {
    if (field.name == name || field.name.starts_with(name + ".")) defaults[field.name] = value_text(field);
  }
  return defaults;
}

Json list_routers() {
  Json rows = Json::array();
  for (const RouterKind& kind : router_kinds()) {
    rows.push_back({{"name", kind.name},
                    {"summary", kind.summary},
                    {"paper", kind.paper},
                    {"dial", dial_name(kind.traits.dial)},
                    {"trainable", kind.traits.trainable},
                    {"causal", kind.traits.causal},
                    {"batch_independent", kind.traits.batch_independent},
                    {"random_at_evaluation", kind.traits.random_at_evaluation},
                    {"families", kind.traits.families},
                    {"defaults", defaults_of("moe." + kind.name)},
                    {"published", kind.published}});
  }
  return rows;
}

Json list_losses() {
  Json rows = Json::array();
  for (const LossKind& kind : loss_kinds()) {
    rows.push_back({{"name", kind.name},
                    {"summary", kind.summary},
                    {"paper", kind.paper},
                    {"defaults", defaults_of("losses." + kind.name)}});
  }
  return rows;
}

Json list_experts() {
  Json rows = Json::array();
  for (const ExpertKind& kind : expert_kinds()) {
    const bool network = kind.count == nullptr;
    rows.push_back({{"name", kind.name}, {"summary", kind.summary}, {"network", network}});
    if (!network) rows.back()["defaults"] = defaults_of("moe." + kind.name + "_experts");
  }
  return rows;
}

/// A table of kinds that have a name and a summary.
template <class Kinds>
Json list_named(const Kinds& kinds) {
  Json rows = Json::array();
  for (const auto& kind : kinds) rows.push_back({{"name", kind.name}, {"summary", kind.summary}});
  return rows;
}

/// What can be listed, and the setting that takes the names.
struct Table {
  std::string name, setting;
  Json (*rows)();
};

const std::vector<Table>& tables() {
  static const std::vector<Table> kAll = {
      {"routers", "moe.router", list_routers},
      {"experts", "moe.expert_kind", list_experts},
      {"models", "model.kind", [] { return list_named(model_kinds()); }},
      {"schedules", "k_schedule.kind", [] { return list_named(k_schedule_kinds()); }},
      {"losses", "losses.NAME", list_losses},
      {"objectives", "objective.kind", [] { return list_named(objective_kinds()); }},
  };
  return kAll;
}

/// "moe.top_p.threshold = 0.4" and so on.
std::string settings_text(const Json& row) {
  std::string text;
  if (!row.contains("defaults")) return text;
  for (const auto& [name, value] : row["defaults"].items())
    text += (text.empty() ? "" : ", ") + name + " = " + value.get<std::string>();
  return text;
}

void print_rows(const Table& table, const Json& rows) {
  std::printf("%s: names for %s\n", table.name.c_str(), table.setting.c_str());
  for (const Json& row : rows) {
    const std::string dial = row.contains("dial") ? " [dial " + row["dial"].get<std::string>() + "]" : "";
    const std::string paper = row.contains("paper") ? " (" + row["paper"].get<std::string>() + ")" : "";
    const std::string settings = settings_text(row);
    std::printf("  %-16s %s%s%s%s\n", row["name"].get<std::string>().c_str(), row["summary"].get<std::string>().c_str(),
                dial.c_str(), paper.c_str(), settings.empty() ? "" : ("; " + settings).c_str());
  }
}

int list(const std::string& name, bool json) {
  std::vector<std::string> names;
  for (const Table& table : tables()) {
    names.push_back(table.name);
    if (table.name != name) continue;
    const Json rows = table.rows();
    if (json) {
      std::printf("%s\n", rows.dump(2).c_str());
    } else {
      print_rows(table, rows);
    }
    return 0;
  }
  throw UserError("list: there is no table '" + name + "'" + suggest(name, names));
}

}  // namespace

void add_list(Program& program) {
  CLI::App* verb =
      add_verb(program, "list", "list the kinds of routers, experts, models, schedules, losses or objectives",
               "smoe list routers\n  smoe list losses --json");
  const auto name = std::make_shared<std::string>();
  const auto json = std::make_shared<bool>(false);
  verb->add_option("table", *name, "routers, experts, models, schedules, losses or objectives")
      ->type_name("TABLE")
      ->required();
  verb->add_flag("--json", *json, "print a JSON array");
  verb->callback([&program, name, json] { program.work = [name, json] { return list(*name, *json); }; });
}

}  // namespace smoe::cli
