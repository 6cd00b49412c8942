// smoe train: trains the model of a recipe, or goes on with a run.
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/models/model_folder.h"
#include "smoe/train/memory_need.h"
#include "smoe/train/trainer.h"

namespace smoe::cli {
namespace {

struct TrainOptions {
  std::string recipe, data, out, resume, dtype, init;
  std::vector<std::string> set;
  std::optional<int64_t> seed;
  ComputeOptions compute;
};

Recipe recipe_of(const TrainOptions& options) {
  Recipe recipe = read_recipe(options.recipe, options.set, options.data);
  const Fields fields = recipe.fields();
  if (options.seed) set_field(fields, concat("train.seed=", *options.seed));
  if (options.compute.threads > 0) recipe.train.threads = options.compute.threads;
  if (!options.compute.device.empty()) recipe.train.device = options.compute.device;
  if (!options.dtype.empty()) set_field(fields, "train.dtype=" + options.dtype);
  if (!options.init.empty()) recipe.train.init = options.init;
  if (!recipe.train.init.empty()) {
    // A run's best checkpoint may be another one tomorrow.
    recipe.train.init =
        std::filesystem::absolute(resolve_model(recipe.train.init, CheckpointRole::kBestFull)).lexically_normal();
  }
  recipe.check();
  return recipe;
}

/// A line of warning where training takes more memory than this process may have. It is an estimate, so training goes on.
void warn_of_memory(const Recipe& recipe) {
  const auto model = model_without_values(recipe, ByteVocabulary::bytes().size());
  const std::optional<MemoryNeed> need = training_memory(*model, recipe);
  const std::optional<std::string> words = need ? shortage(*need, memory_limit()) : std::nullopt;
  if (words) std::fprintf(stderr, "smoe: warning: this training %s; smoe inspect shows what for\n", words->c_str());
}

std::unique_ptr<Trainer> make_trainer(const TrainOptions& options) {
  options.compute.apply();
  if (options.resume.empty()) {
    require(!options.recipe.empty(), "train: name a recipe, or a run with --resume; see smoe train --help");
    const std::string out =
        options.out.empty() ? (std::filesystem::path("runs") / std::filesystem::path(options.recipe).stem()).string()
                            : options.out;
    const Recipe recipe = recipe_of(options);
    warn_of_memory(recipe);
    return start_training(recipe, out);
  }
  require(options.recipe.empty() && options.set.empty() && !options.seed && options.out.empty() &&
              options.init.empty() && options.dtype.empty() && options.compute.device.empty(),
          "train: --resume goes on with the run's own recipe; beside it only --data and --threads make sense");
  RunFolder run = RunFolder::open(options.resume);
  Recipe recipe = run.recipe();
  if (!options.data.empty()) recipe.data.path = std::filesystem::absolute(options.data).lexically_normal();
  if (options.compute.threads > 0) recipe.train.threads = options.compute.threads;
  warn_of_memory(recipe);
  return std::make_unique<Trainer>(std::move(run), recipe);
}

int train(const TrainOptions& options) {
  const std::unique_ptr<Trainer> trainer = make_trainer(options);
  const std::string run = trainer->folder().path().string();
  warn_of_lookahead(trainer->model(), run);
  const std::atomic<int>& stop_signal = stop_gently();
  if (trainer->run(stop_signal, stderr)) {
    std::printf("%s: done, %lld steps. Next:\n  smoe eval %s --split test\n  smoe generate %s --prompt \"The \"\n",
                run.c_str(), static_cast<long long>(trainer->step()), run.c_str(), run.c_str());
    return 0;
  }
  std::printf("%s: stopped and saved at step %lld. Go on with:\n  smoe train --resume %s\n", run.c_str(),
              static_cast<long long>(trainer->step()), run.c_str());
  return 128 + stop_signal.load();
}

}  // namespace

void add_train(Program& program) {
  CLI::App* verb = add_verb(program, "train", "train the model of a recipe, or go on with a run",
                            "smoe train recipes/demo/smoe_dropout.toml --data text.txt --out runs/first --set "
                            "train.steps=500\n  smoe train --resume runs/first");
  const auto options = std::make_shared<TrainOptions>();
  verb->add_option("recipe", options->recipe, "the recipe, a TOML file (smoe settings lists its keys)")
      ->type_name("RECIPE.toml");
  verb->add_option("--data", options->data,
                   "text file, split 90/5/5 by position, folder with train, valid and test, or table of languages")
      ->type_name("FILE|DIR");
  verb->add_option("--init", options->init,
                   "begin with the weights of this run or checkpoint, such as smoe upcycle makes (train.init)")
      ->type_name("MODEL");
  verb->add_option("--out", options->out, "folder of the run; default runs/NAME-OF-THE-RECIPE")->type_name("RUN");
  verb->add_option("--resume", options->resume, "go on with this run from its last checkpoint")->type_name("RUN");
  verb->add_option("--set", options->set, "set one key of the recipe; may stand more than once")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  verb->add_option("--seed", options->seed, "seed of weights and dropout (train.seed)")->type_name("N");
  verb->add_option("--dtype", options->dtype, "fp32 or bf16 matrix products (train.dtype)")->type_name("NAME");
  options->compute.add_to(*verb);
  verb->callback([&program, options] { program.work = [options] { return train(*options); }; });
}

}  // namespace smoe::cli
