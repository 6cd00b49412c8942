// smoe eval: the loss of a model on held-out text, at any setting of its dial.
#include <ATen/Parallel.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/model_text.h"
#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/base/json_lines.h"
#include "smoe/models/model_folder.h"
#include "smoe/train/evaluate.h"

namespace smoe::cli {
namespace {

struct EvalOptions {
  std::string model, data, split = "test", k, dial;
  bool json = false;
  int64_t tokens = 0;
  ComputeOptions compute;
};

/// The numbers of "0.2,0.5"; what the settings say where nothing is asked.
std::vector<std::optional<double>> parse_dials(const std::string& text) {
  if (text.empty()) return {std::nullopt};
  std::vector<std::optional<double>> values;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    double value = 0;
    const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end, value);
    require(error == std::errc() && stop == text.data() + end && std::isfinite(value), "--dial: '",
            text.substr(begin, end - begin), "' is not a number; --dial takes numbers with commas between them");
    values.emplace_back(value);
    begin = end + 1;
  }
  return values;
}

/// What --k or --dial ask for, whichever the model has; the model's default k, or a table of ks, where neither is given.
std::vector<std::optional<double>> dial_values(const EvalOptions& options, const LoadedModel& loaded) {
  const LanguageModel& model = *loaded.model;
  check_dial_options(model, options.model, !options.k.empty(), !options.dial.empty());
  if (model.dial() != Dial::kK) return parse_dials(options.dial);
  if (options.k.empty() && loaded.default_k > 0) return {static_cast<double>(loaded.default_k)};
  std::vector<std::optional<double>> values;
  for (const int64_t k : parse_ks(options.k, model.spec().moe.experts)) values.emplace_back(static_cast<double>(k));
  return values;
}

void print_table(const std::vector<EvalResult>& results) {
  const Dial dial = results.front().dial;
  std::printf("%9s %9s %9s %8s %14s %12s %11s\n", dial == Dial::kNone ? "k" : dial_name(dial).c_str(), "bpc", "nll",
              "active", "active params", "FLOPs/token", "tokens/s");
  for (const EvalResult& r : results) {
    const std::string value = r.value ? concat(*r.value) : "-";
    std::printf("%9s %9.4f %9.4f %8.2f %14.0f %12.4g %11.0f\n", value.c_str(), r.bpc, r.nll, r.mean_active_experts,
                r.active_parameters, r.flops_per_token, r.tokens_per_second);
  }
}

int64_t parameter_count(const LanguageModel& model) {
  int64_t count = 0;
  for (const at::Tensor& parameter : model.parameters()) count += parameter.numel();
  return count;
}

/// Adds an evaluation to the evaluations.jsonl of its run, from where smoe report takes it.
void record(const std::filesystem::path& run, const nlohmann::ordered_json& evaluation) {
  const std::filesystem::path path = run / "evaluations.jsonl";
  try {
    JsonLines(path, std::numeric_limits<int64_t>::max()).write(evaluation);
  } catch (const std::exception& error) {  // a run on a medium that is read only can be measured all the same
    std::fprintf(stderr, "smoe: warning: smoe report will not know of this evaluation: %s\n", error.what());
  }
}

int eval(const EvalOptions& options) {
  options.compute.apply();
  require(options.tokens >= 0, "--tokens must be 0 or more, got ", options.tokens);
  const Split split = parse_split(options.split);
  LoadedModel loaded = load_model(resolve_model(options.model, CheckpointRole::kBestFull));
  const std::vector<std::optional<double>> dials = dial_values(options, loaded);
  warn_of_lookahead(*loaded.model, options.model);

  const auto [files, sha256] = open_text(loaded, options.data, options.model);
  const std::string source = files.path() + " (" + options.split + ")";
  const TokenSequence text(files.bytes(split), loaded.vocabulary, source);
  if (!options.compute.device.empty()) loaded.model->to(at::Device(options.compute.device));

  const EvalLengths lengths = lengths_of(loaded, options.tokens);
  std::vector<EvalResult> results;
  for (const auto& dial : dials) results.push_back(evaluate(*loaded.model, text, lengths, dial, source));
  nlohmann::ordered_json json{{"model", loaded.folder.string()},
                              {"checkpoint", loaded.folder.filename().string()},
                              {"step", recorded_data(loaded.folder).step},
                              {"split", options.split},
                              {"threads", at::get_num_threads()},
                              {"parameters", parameter_count(*loaded.model)},
                              {"data", {{"path", files.path()}, {"sha256", sha256}}},
                              {"results", nlohmann::ordered_json::array()}};
  for (const EvalResult& result : results) json["results"].push_back(to_json(result));
  if (loaded.folder != options.model) record(options.model, json);
  if (options.json) {
    std::printf("%s\n", json.dump(2).c_str());
  } else {
    std::printf("%s on %s\n", loaded.folder.c_str(), source.c_str());
    print_table(results);
  }
  return 0;
}

}  // namespace

void add_eval(Program& program) {
  CLI::App* verb = add_verb(program, "eval", "measure a model on held-out text, at any number of active experts",
                            "smoe eval runs/first --split test --k 1,2,4,8,16");
  const auto options = std::make_shared<EvalOptions>();
  verb->add_option("model", options->model,
                   "a run (its best checkpoint at k = E; smoe report then shows the result) or a checkpoint")
      ->type_name("MODEL")
      ->required();
  verb->add_option("--data", options->data,
                   "text file, folder or table of languages; default: what the model was trained on")
      ->type_name("FILE|DIR");
  verb->add_option("--split", options->split, "train, valid or test")->capture_default_str()->type_name("NAME");
  verb->add_option("--k", options->k,
                   "active experts: numbers with commas between them, or all; default the "
                   "model's own, or 1, 2, 4 … E")
      ->type_name("LIST");
  verb->add_option("--dial", options->dial,
                   "values of the model's dial where that is not k, with commas between them; default: its setting")
      ->type_name("LIST");
  verb->add_option("--tokens", options->tokens, "read at most so many tokens of the split; 0: all")
      ->capture_default_str()
      ->type_name("N");
  verb->add_flag("--json", options->json, "print one JSON object");
  options->compute.add_to(*verb);
  verb->callback([&program, options] { program.work = [options] { return eval(*options); }; });
}

}  // namespace smoe::cli
