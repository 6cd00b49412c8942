// smoe bench step: training steps of a recipe's model, and its evaluation.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include <nlohmann/json.hpp>

#include "bench/step.h"
#include "cli/bench.h"
#include "smoe/base/error.h"
#include "smoe/tensor/gpu.h"

namespace smoe::cli {
namespace {

constexpr size_t kOperatorsShown = 30;

struct StepBench {
  std::string recipe, data, dtype, k, kernel = "auto";
  std::vector<std::string> set;
  bool profile = false;
  BenchOptions options{.compute = {}, .repeat = 10, .json = false};
};

Recipe recipe_of(const StepBench& arguments) {
  Recipe recipe;
  const Fields fields = recipe.fields();
  read_toml_file(fields, arguments.recipe);
  for (const std::string& assignment : arguments.set) set_field(fields, assignment);
  if (!arguments.dtype.empty()) set_field(fields, "train.dtype=" + arguments.dtype);
  if (arguments.options.compute.threads > 0) recipe.train.threads = arguments.options.compute.threads;
  if (!arguments.options.compute.device.empty()) recipe.train.device = arguments.options.compute.device;
  recipe.data.path = arguments.data;
  recipe.check();
  require_device(recipe.train.device, "train.device = \"" + recipe.train.device + "\"");
  require(!arguments.profile || recipe.train.device == "cpu",
          "--profile sees the operators of a CPU alone, not of a GPU; leave out one of the two");
  return recipe;
}

bench::StepOptions step_options(const StepBench& arguments, const Recipe& recipe) {
  bench::StepOptions options{.k = 0, .eval_k = {}, .repeat = arguments.options.repeat, .profile = arguments.profile};
  if (!bench::has_k(recipe)) {
    require(arguments.k.empty(), "--k: ", arguments.recipe, " is of a dense model and has no k; leave --k out");
    options.eval_k = {0};
    return options;
  }
  const int64_t experts = recipe.moe.experts;
  if (arguments.k == "all") {
    options.k = experts;
    for (int64_t k = 1; k <= experts; ++k) options.eval_k.push_back(k);
    return options;
  }
  options.k = recipe.k_schedule.max;
  if (!arguments.k.empty()) {
    const std::vector<int64_t> numbers = parse_numbers("--k", arguments.k, ", or all");
    options.k = numbers[0];
    options.eval_k = numbers;
  }
  if (options.eval_k.empty()) options.eval_k = {options.k};
  for (const int64_t k : options.eval_k) {
    require(k >= 1 && k <= experts, "--k: ", k, " is outside 1 to ", experts, ", the recipe's number of experts");
  }
  return options;
}

void print_profile(const nlohmann::ordered_json& profile) {
  std::printf("\n%-14s %10s %7s   of a step of %.1f ms under the profiler\n", "part", "ms", "share",
              profile["ms"].get<double>());
  for (const nlohmann::ordered_json& part : profile["parts"]) {
    std::printf("%-14s %10.3f %7.3f\n", part["part"].get<std::string>().c_str(), part["ms"].get<double>(),
                part["share"].get<double>());
  }
  std::printf("\n%-14s %10s %7s   operator\n", "part", "self ms", "calls");
  for (size_t i = 0; i < std::min(kOperatorsShown, profile["operators"].size()); ++i) {
    const nlohmann::ordered_json& line = profile["operators"][i];
    std::printf("%-14s %10.3f %7.1f   %s\n", line["part"].get<std::string>().c_str(), line["self_ms"].get<double>(),
                line["calls"].get<double>(), line["name"].get<std::string>().c_str());
  }
}

void print_result(const nlohmann::ordered_json& r) {
  const std::string k = r["k"].is_null() ? "dense" : concat("k ", r["k"].get<int64_t>());
  std::printf("%s, %s, %s, batch %lld x %lld, memory %lld, %.2f M parameters, %s\n",
              r["recipe"].get<std::string>().c_str(), k.c_str(), r["dtype"].get<std::string>().c_str(),
              r["batch"].get<long long>(), r["segment"].get<long long>(), r["memory"].get<long long>(),
              r["parameters"].get<double>() / 1e6, machine_text(r).c_str());
  const nlohmann::ordered_json& peak = r[r["peak_gpu_bytes"].is_null() ? "peak_rss_bytes" : "peak_gpu_bytes"];
  std::printf("training    %10.0f tokens/s, peak of %.0f MiB, loss %.3f\n", r["tokens_per_second"].get<double>(),
              peak.get<double>() / (1 << 20), r["loss"].get<double>());
  for (const auto& [part, ms] : r["train_ms"].items())
    std::printf("  %-10s %9.2f ms\n", part.c_str(), ms.get<double>());
  for (const nlohmann::ordered_json& eval : r["eval"]) {
    const std::string at = eval["k"].is_null() ? "" : concat(" at k ", eval["k"].get<int64_t>());
    std::printf("evaluation  %10.0f tokens/s%s\n", eval["tokens_per_second"].get<double>(), at.c_str());
  }
  if (r.contains("profile")) print_profile(r["profile"]);
}

int bench_step(const StepBench& arguments) {
  arguments.options.apply();
  choose_kernel(arguments.kernel);
  const Recipe recipe = recipe_of(arguments);
  nlohmann::ordered_json result{{"recipe", arguments.recipe}};
  result.update(bench::measure_step(recipe, step_options(arguments, recipe)));
  if (arguments.options.json) {
    print_json({result});
  } else {
    print_result(result);
  }
  return 0;
}

}  // namespace

void add_bench_step(CLI::App& bench, Program& program) {
  CLI::App* part = add_verb(bench, "step", "time training steps of a recipe's model, and its evaluation",
                            "smoe bench step recipes/table1/smoe_dropout.toml --k 12 --set train.batch=4\n"
                            "  smoe bench step recipes/demo/smoe_dropout.toml --k 16 --profile");
  const auto arguments = std::make_shared<StepBench>();
  part->add_option("recipe", arguments->recipe, "the recipe, a TOML file")->type_name("RECIPE.toml")->required();
  part->add_option("--k", arguments->k,
                   "active experts, default k_schedule.max; more numbers are evaluated at only; all: train at E, "
                   "evaluate at each")
      ->type_name("K");
  part->add_option("--data", arguments->data, "a text, as smoe train takes it; default: random bytes")
      ->type_name("FILE|DIR");
  part->add_option("--set", arguments->set, "set one key of the recipe; may stand more than once")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  part->add_option("--dtype", arguments->dtype, "fp32 or bf16 matrix products (train.dtype)")->type_name("NAME");
  add_kernel_option(*part, arguments->kernel);
  part->add_flag("--profile", arguments->profile, "tell where the time goes, by part of the model and operator");
  add_device_option(*part, arguments->options);
  arguments->options.add_to(*part, "training steps whose time is taken");
  part->callback([&program, arguments] { program.work = [arguments] { return bench_step(*arguments); }; });
}

}  // namespace smoe::cli
