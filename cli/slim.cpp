// smoe slim: a smaller model from a trained one, with what it costs in quality.
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/model_text.h"
#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/suggest.h"
#include "smoe/models/model_folder.h"
#include "smoe/slim/keep_experts.h"
#include "smoe/slim/slim_checkpoint.h"
#include "smoe/train/evaluate.h"

namespace smoe::cli {
namespace {

struct SlimOptions {
  std::string model, data, out, by = "load";
  std::optional<int64_t> k, keep;
  uint64_t seed = 0;
  int64_t tokens = 0;
  bool json = false;
  ComputeOptions compute;
};

/// The texts that the model is looked at with: the load is measured on valid, the table on test.
struct Texts {
  CorpusFiles files;
  TokenSequence valid, test;
};

std::string name_of(const CorpusFiles& files, Split split) { return files.path() + " (" + split_name(split) + ")"; }

/// The text of --data, or the one that the model was trained on where it is still there; nothing where there is none.
std::unique_ptr<Texts> open_texts(const SlimOptions& options, const LoadedModel& loaded) {
  const std::string recorded = recorded_data(loaded.folder).path;
  if (options.data.empty() && !is_there(recorded)) return nullptr;
  CorpusFiles files(options.data.empty() ? recorded : options.data);
  TokenSequence valid(files.bytes(Split::kValid), loaded.vocabulary, name_of(files, Split::kValid));
  TokenSequence test(files.bytes(Split::kTest), loaded.vocabulary, name_of(files, Split::kTest));
  return std::make_unique<Texts>(std::move(files), std::move(valid), std::move(test));
}

void check(const SlimOptions& options, const LoadedModel& loaded) {
  require(options.k || options.keep,
          "slim: --k K saves a default k, --keep-experts N saves a model with fewer experts; ",
          "name one of them, or both");
  const std::string& router = loaded.model->spec().moe.router;
  require(loaded.model->router_traits().has_value(), options.model,
          ": is dense, with no experts to choose from and no k to turn; slim makes mixtures smaller");
  require(!options.k || loaded.model->dial() == Dial::kK, "--k: the router '", router, "' of ", options.model,
          " has no k that a default could be saved of; leave --k out");
  const int64_t experts = loaded.model->spec().moe.experts, left = options.keep.value_or(experts);
  require(left >= 1 && left <= experts, "--keep-experts: ", left, " is outside 1 to ", experts,
          ", the model's number of experts");
  require(!options.k || (*options.k >= 1 && *options.k <= left), "--k: ", options.k.value_or(0), " is outside 1 to ",
          left, ", the number of experts that stay");
  if (options.keep) check_can_keep(*loaded.model, left);
  require(options.by == "load" || options.by == "random", "--by: '", options.by, "' is not known",
          suggest(options.by, {"load", "random"}));
  require(options.tokens >= 0, "--tokens must be 0 or more, got ", options.tokens);
}

/// Which experts stay.
SlimRecord choose(const SlimOptions& options, LoadedModel& loaded, const Texts* texts) {
  SlimRecord record{.from = loaded.folder};
  if (!options.keep) return record;
  const ModelSpec& spec = loaded.model->spec();
  record.chosen_by = options.by;
  if (options.by == "random") {
    int64_t mixtures = 0;
    for (int64_t layer = 0; layer < spec.model.layers; ++layer) mixtures += spec.model.moe_layers.contains(layer);
    record.seed = options.seed;
    record.kept = choose_at_random(mixtures, spec.moe.experts, *options.keep, options.seed);
    return record;
  }
  require(texts != nullptr, options.model, ": the text that it was trained on is not there; name one with --data to ",
          "measure the experts' load on, or choose them with --by random");
  // Where as many experts are active as will stay, the load says how often an expert is among those.
  std::optional<double> dial;
  if (loaded.model->dial() == Dial::kK) {
    record.load_k = *options.keep;
    dial = static_cast<double>(*options.keep);
  }
  record.load_data = name_of(texts->files, Split::kValid);
  record.kept = choose_by_load(
      expert_loads(*loaded.model, texts->valid, lengths_of(loaded, options.tokens), dial, record.load_data),
      *options.keep);
  return record;
}

/// bpc by k; of a router whose dial is not k one value, as it is set.
using BpcByK = std::map<std::optional<int64_t>, double>;

BpcByK measure(LoadedModel& loaded, const Texts* texts, int64_t tokens) {
  BpcByK bpc;
  if (texts == nullptr) return bpc;
  std::vector<std::optional<int64_t>> ks;
  if (loaded.model->dial() != Dial::kK) {
    ks = {std::nullopt};
  } else if (loaded.default_k > 0) {
    ks = {loaded.default_k};
  } else {
    for (const int64_t k : parse_ks("", loaded.model->spec().moe.experts)) ks.emplace_back(k);
  }
  const std::string source = name_of(texts->files, Split::kTest);
  for (const std::optional<int64_t>& k : ks) {
    const std::optional<double> dial = k ? std::optional(static_cast<double>(*k)) : std::nullopt;
    bpc[k] = evaluate(*loaded.model, texts->test, lengths_of(loaded, tokens), dial, source).bpc;
  }
  return bpc;
}

nlohmann::ordered_json to_json(const BpcByK& bpc) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const auto& [k, value] : bpc) {
    json.push_back({{"k", k ? nlohmann::ordered_json(*k) : nullptr}, {"bpc", value}});
  }
  return json;
}

void print_table(const BpcByK& before, const BpcByK& after) {
  std::set<std::optional<int64_t>> ks;
  for (const BpcByK* column : {&before, &after}) {
    for (const auto& [k, bpc] : *column) ks.insert(k);
  }
  const auto cell = [](const BpcByK& column, const std::optional<int64_t>& k) {
    char text[32] = "-";
    if (column.contains(k)) std::snprintf(text, sizeof text, "%.4f", column.at(k));
    return std::string(text);
  };
  std::printf("%6s %12s %12s\n", "k", "bpc before", "bpc after");
  for (const std::optional<int64_t>& k : ks) {
    std::printf("%6s %12s %12s\n", k ? std::to_string(*k).c_str() : "-", cell(before, k).c_str(),
                cell(after, k).c_str());
  }
}

int slim(const SlimOptions& options) {
  options.compute.apply();
  require(!is_there(options.out), options.out,
          ": is there already; slim does not overwrite, name another "
          "folder with -o");
  LoadedModel loaded = load_model(resolve_model(options.model, CheckpointRole::kBestFull));
  check(options, loaded);
  warn_of_lookahead(*loaded.model, options.model);
  if (!options.compute.device.empty()) loaded.model->to(at::Device(options.compute.device));
  const std::unique_ptr<Texts> texts = open_texts(options, loaded);
  const SlimRecord record = choose(options, loaded, texts.get());
  const BpcByK before = measure(loaded, texts.get(), options.tokens);
  const auto model = record.kept.empty() ? loaded.model : keep_experts(*loaded.model, record.kept);
  save_slim(options.out, *model, loaded, options.k.value_or(0), record);

  // What is measured is what was saved.
  LoadedModel saved = load_model(options.out);
  if (!options.compute.device.empty()) saved.model->to(at::Device(options.compute.device));
  const BpcByK after = measure(saved, texts.get(), options.tokens);
  if (options.json) {
    const nlohmann::ordered_json json{{"model", loaded.folder.string()},
                                      {"out", options.out},
                                      {"default_k", saved.default_k},
                                      {"experts", saved.model->spec().moe.experts},
                                      {"kept", record.kept},
                                      {"before", to_json(before)},
                                      {"after", to_json(after)}};
    std::printf("%s\n", json.dump(2).c_str());
    return 0;
  }
  std::printf("%s: %s with %lld experts", options.out.c_str(), loaded.folder.c_str(),
              static_cast<long long>(saved.model->spec().moe.experts));
  if (saved.default_k > 0) std::printf(", default k %lld", static_cast<long long>(saved.default_k));
  std::printf("\n");
  if (texts != nullptr) {
    std::printf("on %s\n", name_of(texts->files, Split::kTest).c_str());
    print_table(before, after);
  }
  return 0;
}

}  // namespace

void add_slim(Program& program) {
  CLI::App* verb = add_verb(program, "slim", "save a smaller model: a default k, or fewer experts",
                            "smoe slim runs/first --k 8 -o models/first-k8\n"
                            "  smoe slim runs/first --keep-experts 8 --data text.txt -o models/first-8-experts");
  const auto options = std::make_shared<SlimOptions>();
  verb->add_option("model", options->model, "a run (its best checkpoint at k = E) or a checkpoint")
      ->type_name("MODEL")
      ->required();
  verb->add_option("--k", options->k, "the k that eval and generate take where none is named")->type_name("K");
  verb->add_option("--keep-experts", options->keep, "how many experts of each layer stay")->type_name("N");
  verb->add_option("--by", options->by,
                   "which stay: those that most often are among a token's first N (load), or any (random)")
      ->capture_default_str()
      ->type_name("load|random");
  verb->add_option(
          "--data", options->data,
          "text whose valid part the load is measured on, and whose test part the table; default: what the model "
          "was trained on")
      ->type_name("FILE|DIR");
  verb->add_option("--seed", options->seed, "of --by random")->capture_default_str()->type_name("N");
  verb->add_option("--tokens", options->tokens, "read at most so many tokens of each part; 0: all")
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("-o,--out", options->out, "folder of the new checkpoint; must not exist")
      ->type_name("DIR")
      ->required();
  verb->add_flag("--json", options->json, "print one JSON object");
  options->compute.add_to(*verb);
  verb->callback([&program, options] { program.work = [options] { return slim(*options); }; });
}

}  // namespace smoe::cli
