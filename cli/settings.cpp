// smoe settings: every key of a recipe, with its default and what it accepts.
#include <cstdio>
#include <memory>

#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/train/recipe.h"

namespace smoe::cli {
namespace {

constexpr const char* kPreamble =
    "# Settings\n\n"
    "Every key of a recipe. A recipe is a TOML file with these tables; a key that it does not mention has its "
    "default.\n"
    "`--set KEY=VALUE` sets one from the command line. Written by `smoe settings --markdown`.\n\n";

int settings(bool markdown, const std::string& recipe_path) {
  Recipe recipe;
  const Fields fields = recipe.fields();
  if (!recipe_path.empty()) {
    read_toml_file(fields, recipe_path);
    recipe.check();
  }
  if (markdown) {
    std::printf("%s%s", kPreamble, to_markdown(fields).c_str());
    return 0;
  }
  for (const Field& field : fields.all()) {
    if (!recipe_path.empty() && !field.applies()) continue;  // another kind's
    const std::string allowed = allowed_text(field);
    std::printf("%-28s %-18s %s%s\n", field.name.c_str(), value_text(field).c_str(), field.help.c_str(),
                allowed.empty() ? "" : (" (" + allowed + ")").c_str());
  }
  return 0;
}

}  // namespace

void add_settings(Program& program) {
  CLI::App* verb = add_verb(program, "settings", "list every key of a recipe, with its default and what it accepts",
                            "smoe settings recipes/demo/smoe_dropout.toml");
  const auto markdown = std::make_shared<bool>(false);
  const auto recipe = std::make_shared<std::string>();
  verb->add_option("recipe", *recipe, "show the values of this recipe instead of the defaults")
      ->type_name("RECIPE.toml");
  verb->add_flag("--markdown", *markdown, "print the table of docs/config.md");
  verb->callback(
      [&program, markdown, recipe] { program.work = [markdown, recipe] { return settings(*markdown, *recipe); }; });
}

}  // namespace smoe::cli
