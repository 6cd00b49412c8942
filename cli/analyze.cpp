// smoe analyze: what a model's routing goes by, of one model or of several side by side.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/model_text.h"
#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/models/model_folder.h"
#include "smoe/plan/trace_file.h"
#include "smoe/study/analyze.h"
#include "smoe/train/trace_routing.h"

namespace smoe::cli {
namespace {

struct AnalyzeOptions {
  std::vector<std::string> models;
  std::string data, split = "test", out, trace;
  std::optional<int64_t> k;
  std::optional<double> dial;
  int64_t tokens = 20'000;
  bool json = false;
  ComputeOptions compute;
};

/// Where nobody says, a k that chooses: the model's own, the small one that its run was evaluated at, or half the experts.
int64_t default_k(const LoadedModel& loaded) {
  if (loaded.default_k > 0) return loaded.default_k;
  const int64_t experts = loaded.model->spec().moe.experts;
  const std::optional<Recipe> recipe = recorded_recipe(loaded.folder);
  return recipe ? std::min(recipe->train.small_k, experts) : std::max<int64_t>(1, experts / 2);
}

std::optional<double> dial_value(const AnalyzeOptions& options, const LoadedModel& loaded, const std::string& name) {
  check_dial_options(*loaded.model, name, options.k.has_value(), options.dial.has_value());
  if (loaded.model->dial() != Dial::kK) return options.dial;
  const int64_t k = options.k.value_or(default_k(loaded)), experts = loaded.model->spec().moe.experts;
  require(k >= 1 && k <= experts, "--k: ", k, " is outside 1 to ", experts, ", the number of experts of ", name);
  return static_cast<double>(k);
}

RoutingTrace gather(const AnalyzeOptions& options, const std::string& name) {
  const LoadedModel loaded = load_model(resolve_model(name, CheckpointRole::kBestFull));
  require(loaded.model->router_traits().has_value(), name, ": is a dense model and routes nothing");
  const std::optional<double> dial = dial_value(options, loaded, name);
  const CorpusFiles files = open_text(loaded, options.data, name).files;
  const std::string source = files.path() + " (" + options.split + ")";
  const TokenSequence text(files.bytes(parse_split(options.split)), loaded.vocabulary, source);
  if (!options.compute.device.empty()) loaded.model->to(at::Device(options.compute.device));
  return trace_routing(loaded, text, lengths_of(loaded, options.tokens), dial, source);
}

int analyze(const AnalyzeOptions& options) {
  options.compute.apply();
  require(options.tokens >= 0, "--tokens must be 0 or more, got ", options.tokens);
  require(options.trace.empty() || options.models.size() == 1, "--trace takes one model, got ", options.models.size());
  parse_split(options.split);
  std::vector<NamedTrace> traces;
  for (const std::string& name : options.models) {
    const bool is_trace = is_there(name) && !is_folder(name);
    traces.push_back({name, is_trace ? read_trace(name) : gather(options, name)});
  }
  const nlohmann::ordered_json data = analysis_data(traces);
  if (!options.trace.empty()) write_trace(options.trace, traces[0].trace);
  if (!options.out.empty()) write_file_atomic(options.out, analysis_page(data));
  if (options.json) {
    std::printf("%s\n", data.dump(2).c_str());
  } else {
    std::printf("%s", analysis_table(data).c_str());
  }
  return 0;
}

}  // namespace

void add_analyze(Program& program) {
  CLI::App* verb = add_verb(program, "analyze", "what the routing of models goes by, and how far it agrees",
                            "smoe analyze runs/first --data data/foldoc.txt -o routing.html\n"
                            "  smoe analyze runs/first/checkpoints/step-* --k 2 --json");
  const auto options = std::make_shared<AnalyzeOptions>();
  verb->add_option("models", options->models,
                   "runs (the best checkpoint at k = E of each), checkpoints, or traces that --trace wrote")
      ->type_name("MODEL|TRACE")
      ->required();
  verb->add_option("--data", options->data,
                   "text file, folder or table of languages; default: what each model was trained on")
      ->type_name("FILE|DIR");
  verb->add_option("--split", options->split, "train, valid or test")->capture_default_str()->type_name("NAME");
  verb->add_option("--tokens", options->tokens, "read at most so many tokens of the split; 0: all")
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("--k", options->k, "active experts; default: the model's own, or the small k of its run")
      ->type_name("K");
  verb->add_option("--dial", options->dial, "value of the dial where that is not k; default: its setting")
      ->type_name("VALUE");
  verb->add_option("-o,--out", options->out, "write a page too, one HTML file")->type_name("FILE");
  verb->add_option("--trace", options->trace, "write the routing of the one model, to be analyzed again without it")
      ->type_name("FILE");
  verb->add_flag("--json", options->json, "print one JSON object instead of a table");
  options->compute.add_to(*verb);
  verb->callback([&program, options] { program.work = [options] { return analyze(*options); }; });
}

}  // namespace smoe::cli
