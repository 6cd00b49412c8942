#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <filesystem>

#include "cli/verbs.h"
#include "smoe/base/build_info.h"
#include "smoe/base/error.h"
#include "smoe/models/model.h"
#include "smoe/tensor/gpu.h"
#include "smoe/tensor/torch_compat.h"

namespace smoe::cli {

CLI::App* add_verb(Program& program, const std::string& name, const std::string& help, const std::string& example) {
  return add_verb(program.app, name, help, example);
}

CLI::App* add_verb(CLI::App& parent, const std::string& name, const std::string& help, const std::string& example) {
  CLI::App* verb = parent.add_subcommand(name, help);
  verb->footer("Example:\n  " + example);
  return verb;
}

std::vector<int64_t> parse_numbers(const std::string& option, const std::string& text, const std::string& or_what) {
  std::vector<int64_t> numbers;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    int64_t number = 0;
    const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end, number);
    require(error == std::errc() && stop == text.data() + end, option, ": '", text.substr(begin, end - begin),
            "' is not a number; ", option, " takes numbers with commas between them", or_what);
    numbers.push_back(number);
    begin = end + 1;
  }
  return numbers;
}

void ComputeOptions::add_to(CLI::App& verb) {
  verb.add_option("--threads", threads, "threads to compute with; 0: one a core")->type_name("N");
  verb.add_option("--device", device, "cpu or cuda")->type_name("NAME");
}

void ComputeOptions::apply() const {
  require(threads >= 0 && threads <= 4096, "--threads must be between 0 and 4096, got ", threads);
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  require(device.empty() || device == "cpu" || device == "cuda", "--device must be cpu or cuda, got '", device, "'");
  if (!device.empty()) require_device(device, "--device " + device);
}

void check_dial_options(const LanguageModel& model, const std::string& name, bool has_k, bool has_dial) {
  const Dial dial = model.dial();
  const std::string what = !model.router_traits() ? " is a dense model and has no "
                           : dial == Dial::kNone  ? " has a router without a dial and no "
                           : dial == Dial::kK     ? " has the dial k and no "
                                                  : " has the dial " + dial_name(dial) + " and no ";
  const char* instead = dial == Dial::kNone ? "; leave it out" : dial == Dial::kK ? "; use --k" : "; use --dial";
  require(dial == Dial::kK || !has_k, "--k: ", name, what, "k", instead);
  require(!has_dial || (dial != Dial::kK && dial != Dial::kNone), "--dial: ", name, what, "other dial", instead);
}

void warn_of_lookahead(const LanguageModel& model, const std::string& name) {
  const std::optional<RouterTraits> traits = model.router_traits();
  if (!traits || traits->causal) return;
  std::fprintf(stderr, "smoe: warning: the router of %s sees later tokens; its bpc is no prediction's\n", name.c_str());
}

Recipe read_recipe(const std::string& path, const std::vector<std::string>& set, const std::string& data) {
  Recipe recipe;
  const Fields fields = recipe.fields();
  read_toml_file(fields, path);
  for (const std::string& assignment : set) set_field(fields, assignment);
  if (!data.empty()) recipe.data.path = data;
  if (!recipe.data.path.empty()) recipe.data.path = std::filesystem::absolute(recipe.data.path).lexically_normal();
  return recipe;
}

std::vector<int64_t> parse_ks(const std::string& text, int64_t experts) {
  std::vector<int64_t> ks;
  if (text.empty()) {
    for (int64_t k = 1; k < experts; k *= 2) ks.push_back(k);
    ks.push_back(experts);
    return ks;
  }
  if (text == "all") {
    for (int64_t k = 1; k <= experts; ++k) ks.push_back(k);
    return ks;
  }
  ks = parse_numbers("--k", text, ", or all");
  for (const int64_t k : ks) {
    require(k >= 1 && k <= experts, "--k: ", k, " is outside 1 to ", experts, ", the model's number of experts");
  }
  return ks;
}

const std::atomic<int>& stop_gently() {
  static std::atomic<int> signal_number = 0;
  struct sigaction action{};
  action.sa_handler = [](int signal) { signal_number.store(signal); };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  return signal_number;
}

std::string version_text() {
  return concat("smoe ", kVersion, " (", kCommit, *kCommit == '\0' ? "" : ", ", kBuild, ", ", kCompiler, ")\nLibTorch ",
                libtorch_version(), at::hasCUDA() ? ", CUDA" : ", no CUDA", "\nCPU ", at::get_cpu_capability(), ", ",
                at::get_num_threads(), " threads\n");
}

}  // namespace smoe::cli
