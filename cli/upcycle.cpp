// smoe upcycle: the model of a recipe from a trained one that is dense, or has fewer experts.
#include <cstdio>
#include <memory>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/models/model_folder.h"
#include "smoe/models/model_parts.h"
#include "smoe/train/upcycle.h"

namespace smoe::cli {
namespace {

struct UpcycleOptions {
  std::string model, recipe, out;
  std::vector<std::string> set;
  std::optional<int64_t> seed;
  bool json = false;
};

/// Parameters of each part, before and after.
nlohmann::ordered_json compare_parts(const LanguageModel& before, const LanguageModel& after) {
  nlohmann::ordered_json parts = nlohmann::ordered_json::object();
  int64_t all_before = 0, all_after = 0;
  // The parts of the larger model, in their order, and those that it no longer has.
  for (const PartCount& part : count_parts(after)) {
    parts[part.part] = {{"before", 0}, {"after", part.total()}};
    all_after += part.total();
  }
  for (const PartCount& part : count_parts(before)) {
    if (!parts.contains(part.part)) parts[part.part] = {{"before", 0}, {"after", 0}};
    parts[part.part]["before"] = part.total();
    all_before += part.total();
  }
  parts["all"] = {{"before", all_before}, {"after", all_after}};
  return parts;
}

void print_parts(const nlohmann::ordered_json& parts) {
  std::printf("%-16s %14s %14s\n", "part", "before", "after");
  for (const auto& [name, part] : parts.items()) {
    std::printf("%-16s %14lld %14lld\n", name.c_str(), part["before"].get<long long>(), part["after"].get<long long>());
  }
}

int upcycle(const UpcycleOptions& options) {
  require(!is_there(options.out), options.out,
          ": is there already; upcycle does not overwrite, name another folder with -o");
  Recipe recipe = read_recipe(options.recipe, options.set, "");
  if (options.seed) set_field(recipe.fields(), concat("train.seed=", *options.seed));
  recipe.check();
  const LoadedModel source = load_model(resolve_model(options.model, CheckpointRole::kBestFull));
  const std::shared_ptr<LanguageModel> model = smoe::upcycle(source, recipe);
  save_upcycled(options.out, *model, source, recipe);

  const nlohmann::ordered_json parts = compare_parts(*source.model, *model);
  if (options.json) {
    const nlohmann::ordered_json json{{"model", source.folder.string()},
                                      {"recipe", options.recipe},
                                      {"out", options.out},
                                      {"experts", model->mixtures().empty() ? 0 : model->spec().moe.experts},
                                      {"parameters", parts}};
    std::printf("%s\n", json.dump(2).c_str());
    return 0;
  }
  std::printf("%s: %s as a model of %s, %zu mixture%s of %lld experts\n", options.out.c_str(), source.folder.c_str(),
              options.recipe.c_str(), model->mixtures().size(), model->mixtures().size() == 1 ? "" : "s",
              static_cast<long long>(model->spec().moe.experts));
  print_parts(parts);
  std::printf("Next:\n  smoe train %s --init %s --data FILE\n", options.recipe.c_str(), options.out.c_str());
  return 0;
}

}  // namespace

void add_upcycle(Program& program) {
  CLI::App* verb =
      add_verb(program, "upcycle", "make a larger model of a trained one: experts of a dense block, null experts",
               "smoe upcycle runs/dense recipe.toml -o models/upcycled\n"
               "  smoe train recipe.toml --init models/upcycled --data text.txt --out runs/upcycled");
  const auto options = std::make_shared<UpcycleOptions>();
  verb->add_option("model", options->model, "a run (its best checkpoint at k = E) or a checkpoint")
      ->type_name("MODEL")
      ->required();
  verb->add_option("recipe", options->recipe, "the recipe whose model it becomes")
      ->type_name("RECIPE.toml")
      ->required();
  verb->add_option("-o,--out", options->out, "folder of the new checkpoint; must not exist")
      ->type_name("DIR")
      ->required();
  verb->add_option("--set", options->set, "set one key of the recipe; may stand more than once")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  verb->add_option("--seed", options->seed, "seed of what is drawn, routers above all (train.seed)")->type_name("N");
  verb->add_flag("--json", options->json, "print one JSON object");
  verb->callback([&program, options] { program.work = [options] { return upcycle(*options); }; });
}

}  // namespace smoe::cli
