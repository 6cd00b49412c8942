// smoe bench: how fast the layer, training and the machine are.
#include "cli/bench.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"
#include "smoe/kernels/kernel_choice.h"

namespace smoe::cli {

void BenchOptions::add_to(CLI::App& part, const std::string& what_is_repeated) {
  part.add_option("--threads", compute.threads, "threads to compute with; 0: one a core")->type_name("N");
  part.add_option("--repeat", repeat, what_is_repeated)->capture_default_str()->type_name("N");
  part.add_flag("--json", json, "print JSON; docs/bench.md explains the fields");
}

void BenchOptions::apply() const {
  compute.apply();
  require(repeat >= 1 && repeat <= 100'000, "--repeat must be between 1 and 100000, got ", repeat);
}

void add_device_option(CLI::App& part, BenchOptions& options) {
  part.add_option("--device", options.compute.device, "cpu or cuda, default cpu")->type_name("NAME");
}

void LayerArguments::add_to(CLI::App& part, const std::string& example) {
  part.add_option("--shape", shapes, "experts E, width D, expert width H, tokens T, experts a token K: " + example)
      ->type_name("SHAPE")
      ->allow_extra_args(false)
      ->required();
  part.add_option("--dtype", dtype, "fp32, or bf16: products in bf16, weights kept in fp32")
      ->capture_default_str()
      ->type_name("NAME");
  part.add_option("--activation", activation, "between the matrices, as in moe.activation")
      ->capture_default_str()
      ->type_name("NAME");
  add_kernel_option(part, kernel);
}

void add_kernel_option(CLI::App& part, std::string& kernel) {
  part.add_option("--kernel", kernel,
                  "auto; reference for the plain bodies, or grouped for the mixture's on a grouped product")
      ->capture_default_str()
      ->type_name("NAME");
}

void choose_kernel(const std::string& kernel) {
  const std::vector<std::string>& known = kernel_choices();
  require(std::find(known.begin(), known.end(), kernel) != known.end(), "--kernel: '", kernel, "' is not known",
          suggest(kernel, known));
  if (kernel != "auto") ::setenv("SMOE_KERNEL", kernel.c_str(), 1);
}

void print_json(const std::vector<nlohmann::ordered_json>& results) {
  const nlohmann::ordered_json all = results;
  std::printf("%s\n", (results.size() == 1 ? results[0] : all).dump(2).c_str());
}

std::string machine_text(const nlohmann::ordered_json& result) {
  const nlohmann::ordered_json& gpu = result["machine"]["gpu"];
  if (result.value("device", "cpu") == "cuda") return gpu.is_string() ? gpu.get<std::string>() : "a GPU";
  const auto threads = result["threads"].get<int64_t>();
  return concat(threads, threads == 1 ? " thread, " : " threads, ", result["machine"]["cpu"].get<std::string>());
}

void add_bench(Program& program) {
  CLI::App* verb =
      add_verb(program, "bench", "measure the speed of the layer and of training beside the machine's limits",
               "smoe bench layer --shape E16,D256,H512,T2048,K8 --dtype bf16 --threads 1");
  verb->require_subcommand(1);
  add_bench_layer(*verb, program);
  add_bench_limits(*verb, program);
  add_bench_step(*verb, program);
  add_bench_decode(*verb, program);
}

}  // namespace smoe::cli
