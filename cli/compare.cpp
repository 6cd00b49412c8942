// smoe compare: trains and measures kinds of runs over several seeds, and says which is better by how much.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <thread>

#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/suggest.h"
#include "smoe/models/model.h"
#include "smoe/study/compare_results.h"
#include "smoe/train/recipe.h"
#include "smoe/train/trainer.h"

namespace smoe::cli {
namespace {

struct CompareOptions {
  std::string plan, data, out, tokens, budget;
  std::vector<std::string> only;
  int64_t seeds = 0, jobs = 1, threads = 0;
  bool json = false, dry_run = false;
};

/// The plan as the command line wants it: some of the entries, another number of seeds.
ComparePlan read_plan(const CompareOptions& options) {
  ComparePlan plan = read_compare_plan(options.plan);
  std::vector<std::string> names;
  for (const CompareEntry& entry : plan.entries) names.push_back(entry.name);
  for (const std::string& name : options.only) {
    require(std::find(names.begin(), names.end(), name) != names.end(), "--only: ", options.plan, " has no entry '",
            name, "'", suggest(name, names));
  }
  if (!options.only.empty()) {
    std::erase_if(plan.entries, [&](const CompareEntry& entry) {
      return std::find(options.only.begin(), options.only.end(), entry.name) == options.only.end();
    });
  }
  for (CompareEntry& entry : plan.entries) {
    if (options.seeds > 0) entry.seeds = options.seeds;
  }
  return plan;
}

/// Takes the entries out that the text cannot train, where the plan lets that be.
void leave_out(ComparePlan& plan, const CorpusFiles& files) {
  if (!files.families().empty()) return;
  std::string names;
  for (const CompareEntry& entry : plan.entries) {
    if (entry.needs_languages) names += (names.empty() ? "" : ", ") + entry.name;
  }
  if (names.empty()) return;
  std::erase_if(plan.entries, [](const CompareEntry& entry) { return entry.needs_languages; });
  require(!plan.entries.empty(), names, ": name a table of languages with --data (docs/formats.md); ", files.path(),
          " is none");
  std::fprintf(stderr, "smoe: left out, since %s is no table of languages: %s\n", files.path().c_str(), names.c_str());
}

Recipe recipe_of(const ComparePlan& plan, const CompareEntry& entry, const CorpusFiles& files) {
  Recipe recipe;
  const Fields fields = recipe.fields();
  read_toml_file(fields, plan.base);
  for (const RawSetting& setting : entry.settings) assign(fields, setting);
  recipe.data.path = files.path();
  try {
    recipe.check();
    check_families(recipe, files);
  } catch (const UserError& error) {
    throw UserError(concat("entry ", entry.name, ": ", error.what()));
  }
  return recipe;
}

/// Forward and backward operations of the mean step of a training, a token: the forward pass, and twice as many for its
/// gradients.
double training_flops_per_token(const Recipe& recipe, const CorpusFiles& files) {
  const int64_t vocabulary = make_vocabulary(recipe.data.format, files).size();
  const std::shared_ptr<LanguageModel> model = make_model(recipe.spec(vocabulary), RandomStream(0));
  const std::optional<RouterTraits> traits = model->router_traits();
  require(!traits || (traits->dial == Dial::kK && !traits->more_in_training), "--budget: in training the router '",
          recipe.moe.router, "' takes as many experts as it likes, so its FLOPs are not known before; use --tokens");
  require(!traits || recipe.moe.networks() == recipe.moe.experts,
          "--budget: how many of a token's experts are networks ", "is not known before the training; use --tokens");
  require(!recipe.spawn.is_on(), "--budget: with spawn.at = ", recipe.spawn.at,
          " steps cost less until experts are spawned, which is not counted; use --tokens");
  const double active = recipe.schedule_of_k().mean();
  const TrainConfig& train = recipe.train;
  return 3 * model->flops_per_token(
                 {.batch = train.batch / train.accumulate, .segment = train.segment, .memory = train.memory}, active);
}

/// How many updates an entry gets.
int64_t steps_of(const Recipe& recipe, const CompareOptions& options, const CorpusFiles& files) {
  const int64_t tokens_per_step = recipe.train.batch * recipe.train.segment;
  if (!options.tokens.empty()) {
    const int64_t tokens = parse_count(options.tokens, "--tokens");
    return (tokens + tokens_per_step - 1) / tokens_per_step;
  }
  if (options.budget.empty()) return recipe.train.steps;
  const std::string kind = "flops=";
  require(options.budget.starts_with(kind), "--budget takes flops=NUMBER, such as flops=2e14, got '", options.budget,
          "'");
  const auto flops = static_cast<double>(parse_count(options.budget.substr(kind.size()), "--budget flops"));
  const double steps = flops / (training_flops_per_token(recipe, files) * static_cast<double>(tokens_per_step));
  require(steps >= 1, "--budget: ", options.budget, " is less than one step");
  return static_cast<int64_t>(std::llround(steps));
}

std::vector<int64_t> all_steps(const ComparePlan& plan, const CompareOptions& options, const CorpusFiles& files) {
  std::vector<int64_t> steps;
  for (const CompareEntry& entry : plan.entries) {
    steps.push_back(steps_of(recipe_of(plan, entry, files), options, files));
  }
  return steps;
}

/// The commands that a comparison consists of, a line each.
void print_commands(const std::vector<PlannedRun>& runs, const std::filesystem::path& folder) {
  const auto words = [](const std::vector<std::string>& arguments) {
    std::string out;
    for (const std::string& argument : arguments) out += (out.empty() ? "" : " ") + argument;
    return out;
  };
  for (const PlannedRun& run : runs) {
    const std::string path = RunPaths(folder, run).run;
    std::printf("smoe train %s --out %s\nsmoe eval %s --json %s\n", words(run.train).c_str(), path.c_str(),
                path.c_str(), words(run.evaluate).c_str());
  }
}

int compare(const CompareOptions& options) {
  require(options.jobs >= 1 && options.jobs <= 1024, "--jobs must be between 1 and 1024, got ", options.jobs);
  require(options.seeds >= 0, "--seeds must be at least 1, got ", options.seeds);
  require(options.threads >= 0 && options.threads <= 4096, "--threads must be between 0 and 4096, got ",
          options.threads);
  require(options.tokens.empty() || options.budget.empty(), "--tokens and --budget: give one of the two");
  require(!options.data.empty(), "compare: name a text with --data");
  ComparePlan plan = read_plan(options);
  const CorpusFiles files(std::filesystem::absolute(options.data).lexically_normal());
  leave_out(plan, files);
  const std::filesystem::path folder = options.out.empty()
                                           ? std::filesystem::path("runs") / std::filesystem::path(options.plan).stem()
                                           : std::filesystem::path(options.out);
  const std::vector<PlannedRun> runs = planned_runs(plan, all_steps(plan, options, files), files.path());
  if (options.dry_run) {
    print_commands(runs, folder);
    return 0;
  }

  const auto cores = static_cast<int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  const int64_t threads = options.threads > 0 ? options.threads : std::max<int64_t>(1, cores / options.jobs);
  const std::atomic<int>& stop_signal = stop_gently();
  const std::vector<FailedRun> failed = do_runs(runs,
                                                {.tool = std::filesystem::read_symlink("/proc/self/exe"),
                                                 .folder = folder,
                                                 .jobs = options.jobs,
                                                 .threads = threads},
                                                stop_signal);
  Comparison comparison = read_comparison(plan, runs, folder);
  comparison.failed = failed;
  const nlohmann::ordered_json json = to_json(comparison);
  write_file_atomic(folder / "results.json", json.dump(2) + "\n");
  write_file_atomic(folder / "compare.html", comparison_page(comparison));
  if (options.json) {
    std::printf("%s\n", json.dump(2).c_str());
  } else {
    std::printf("%s%s\n", comparison_table(comparison).c_str(), (folder / "compare.html").c_str());
  }
  if (stop_signal != 0) {
    std::fprintf(stderr, "smoe: stopped; the same command goes on from here\n");
    return 128 + stop_signal.load();
  }
  return failed.empty() ? 0 : 1;
}

}  // namespace

void add_compare(Program& program) {
  CLI::App* verb = add_verb(program, "compare", "train and measure kinds of runs over several seeds, side by side",
                            "smoe compare recipes/compare/schedules.toml --data text.txt --tokens 600K --seeds 3 -o "
                            "runs/schedules");
  const auto options = std::make_shared<CompareOptions>();
  verb->add_option("plan", options->plan, "what to compare, a TOML file (docs/formats.md)")
      ->type_name("PLAN.toml")
      ->required();
  verb->add_option("--data", options->data, "text file, folder or table of languages that all train on")
      ->type_name("FILE|DIR");
  verb->add_option("--tokens", options->tokens,
                   "train each run on so many tokens, such as 600K; default: the recipe's steps")
      ->type_name("N");
  verb->add_option("--budget", options->budget, "train each run with so many floating-point operations")
      ->type_name("flops=N");
  verb->add_option("--seeds", options->seeds, "runs of each entry; default: what the plan says")->type_name("N");
  verb->add_option("--only", options->only, "only these entries of the plan")->type_name("NAME")->delimiter(',');
  verb->add_option("-o,--out", options->out,
                   "folder of the comparison; default runs/NAME-OF-THE-PLAN; the same command goes "
                   "on with what is there")
      ->type_name("DIR");
  verb->add_option("--jobs", options->jobs, "runs side by side")->capture_default_str()->type_name("N");
  verb->add_option("--threads", options->threads, "threads of each run; 0: the cores divided by --jobs")
      ->type_name("N");
  verb->add_flag("--dry-run", options->dry_run, "print the trainings and evaluations it would run, and run none");
  verb->add_flag("--json", options->json, "print results.json instead of the table");
  verb->callback([&program, options] { program.work = [options] { return compare(*options); }; });
}

}  // namespace smoe::cli
