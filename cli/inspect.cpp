// smoe inspect: what a model consists of and what it costs, from its files or from a recipe alone.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/manifest.h"
#include "smoe/base/safetensors.h"
#include "smoe/base/sha256.h"
#include "smoe/models/model_folder.h"
#include "smoe/models/model_parts.h"
#include "smoe/train/evaluate.h"
#include "smoe/train/memory_need.h"

namespace smoe::cli {
namespace {

struct InspectOptions {
  std::string source, data, k;
  std::vector<std::string> set;
  bool json = false;
};

/// What is looked at: the model without values, and whatever else is known of it.
struct Inspected {
  std::string source;  ///< the recipe or the checkpoint's folder
  std::shared_ptr<LanguageModel> model;
  ModelLengths lengths;
  std::optional<Recipe> recipe;
  nlohmann::ordered_json tensors;  ///< an array; null for a recipe
};

/// Ids of the recipe's tokens. Those of a format that looks at the text are at most 256 where there is none.
int64_t vocabulary_of(const Recipe& recipe) {
  if (recipe.data.path.empty()) return ByteVocabulary::bytes().size();
  return make_vocabulary(recipe.data.format, CorpusFiles(recipe.data.path)).size();
}

Inspected inspect_recipe(const InspectOptions& options) {
  Recipe recipe = read_recipe(options.source, options.set, options.data);
  recipe.check();
  if (recipe.data.format == "bytes") recipe.data.path.clear();  // the text tells nothing
  const EvalLengths eval = eval_lengths(recipe.train);
  return {.source = options.source,
          .model = model_without_values(recipe, vocabulary_of(recipe)),
          .lengths = {.memory = recipe.train.memory,
                      .eval_batch = eval.batch,
                      .eval_segment = eval.segment,
                      .eval_memory = eval.memory},
          .recipe = recipe,
          .tensors = nullptr};
}

/// Names, types, shapes and checksums of the tensors of a checkpoint, which must be those of the model.
nlohmann::ordered_json list_tensors(const std::filesystem::path& path, const LanguageModel& model) {
  const MappedFile file(path);
  const SafetensorsView view = parse_safetensors(file.bytes(), path.string());
  for (const auto& item : model.named_parameters()) {
    const TensorBytes* tensor = view.find(item.key());
    require(tensor != nullptr && item.value().sizes() == tensor->shape, path.string(), ": tensor '", item.key(),
            "' is missing or not of shape ", item.value().sizes(), ", as config.json has it");
  }
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const TensorBytes& tensor : view.tensors) {
    list.push_back({{"name", tensor.name},
                    {"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"sha256", sha256_hex(tensor.bytes)}});
  }
  return list;
}

Inspected inspect_checkpoint(const InspectOptions& options) {
  require(options.set.empty() && options.data.empty(), "inspect: --set and --data change a recipe, and ",
          options.source, " is a folder");
  const std::filesystem::path folder = resolve_model(options.source, CheckpointRole::kBestFull);
  verify_manifest(folder);
  const ModelCard card = read_model_card(folder);
  const auto model = make_model(card.spec, RandomStream::without_values());
  std::optional<Recipe> recipe = recorded_recipe(folder);
  // Of a model that was made smaller, the recipe is not its own.
  if (recipe && recipe->moe.experts != card.spec.moe.experts) recipe.reset();
  if (recipe) {
    model->set_precision(parse_precision(recipe->train.dtype));
    for (const FrozenPart& part : frozen_parts(recipe->freeze, 0, recipe->train.steps)) freeze(*model, part);
  }
  return {.source = folder.string(),
          .model = model,
          .lengths = card.lengths,
          .recipe = recipe,
          .tensors = list_tensors(folder / "model.safetensors", *model)};
}

nlohmann::ordered_json memory_json(const std::optional<MemoryNeed>& need, const MemoryLimit& limit) {
  if (!need) return nullptr;
  nlohmann::ordered_json json = to_json(*need);
  json["fits"] = !shortage(*need, limit).has_value();
  return json;
}

nlohmann::ordered_json describe(const Inspected& inspected, const std::vector<int64_t>& ks) {
  const LanguageModel& model = *inspected.model;
  const ModelSpec& spec = model.spec();
  const ModelLengths& lengths = inspected.lengths;
  nlohmann::ordered_json json{{"source", inspected.source},
                              {"model", spec.model.kind},
                              {"layers", spec.model.layers},
                              {"width", spec.model.width},
                              {"experts", spec.has_moe() ? spec.moe.experts : 0},
                              {"vocabulary", spec.vocabulary}};
  PartCount sum;
  nlohmann::ordered_json parts = nlohmann::ordered_json::array();
  for (const PartCount& part : count_parts(model)) {
    parts.push_back(
        {{"part", part.part}, {"total", part.total()}, {"trainable", part.trainable}, {"frozen", part.frozen}});
    sum.trainable += part.trainable;
    sum.frozen += part.frozen;
  }
  json["parameters"] = {{"total", sum.total()}, {"trainable", sum.trainable}, {"frozen", sum.frozen}, {"parts", parts}};
  json["active"] = nlohmann::ordered_json::array();
  for (const int64_t k : ks) {
    nlohmann::ordered_json row{{"k", model.dial() == Dial::kK ? nlohmann::ordered_json(k) : nullptr},
                               {"active_experts", spec.has_moe() ? k : 0}};
    const auto active = static_cast<double>(k);
    row["active_parameters"] = model.active_parameters(active);
    row["flops_per_token"] = model.flops_per_token(
        {.batch = lengths.eval_batch, .segment = lengths.eval_segment, .memory = lengths.eval_memory}, active);
    json["active"].push_back(row);
  }
  const MemoryLimit limit = memory_limit();
  const auto training = inspected.recipe ? training_memory(model, *inspected.recipe) : std::nullopt;
  json["memory"] = {{"limit", {{"bytes", limit.bytes}, {"source", limit.source}}},
                    {"training", memory_json(training, limit)},
                    {"generation", memory_json(generation_memory(model, lengths, spec.moe.experts), limit)}};
  if (!inspected.tensors.is_null()) json["tensors"] = inspected.tensors;
  return json;
}

void print_parameters(const nlohmann::ordered_json& json) {
  std::printf("%-16s %14s %14s %14s\n", "part", "parameters", "trainable", "frozen");
  const auto row = [](const std::string& name, const nlohmann::ordered_json& part) {
    std::printf("%-16s %14lld %14lld %14lld\n", name.c_str(), part["total"].get<long long>(),
                part["trainable"].get<long long>(), part["frozen"].get<long long>());
  };
  for (const auto& part : json["parts"]) row(part["part"], part);
  row("all", json);
}

void print_memory(const char* what, const nlohmann::ordered_json& need, const nlohmann::ordered_json& limit) {
  if (need.is_null()) return;
  std::printf("\n%s needs about %s of memory", what, bytes_text(need["total"]).c_str());
  if (limit["bytes"] != 0) {
    std::printf(", which %s in the %s of %s", need["fits"].get<bool>() ? "fits" : "does not fit",
                bytes_text(limit["bytes"]).c_str(), limit["source"].get<std::string>().c_str());
  }
  std::printf("\n");
  for (const auto& [name, bytes] : need.items()) {
    if (!bytes.is_number() || name == "total" || bytes.get<double>() == 0) continue;
    std::string words = name;
    for (char& c : words) c = c == '_' ? ' ' : c;
    std::printf("  %-16s %10s\n", words.c_str(), bytes_text(bytes).c_str());
  }
}

void print(const nlohmann::ordered_json& json) {
  std::printf("%s: %s, %lld layers of width %lld", json["source"].get<std::string>().c_str(),
              json["model"].get<std::string>().c_str(), json["layers"].get<long long>(),
              json["width"].get<long long>());
  if (json["experts"] != 0) std::printf(", %lld experts", json["experts"].get<long long>());
  std::printf(", %lld tokens\n\n", json["vocabulary"].get<long long>());
  print_parameters(json["parameters"]);
  // How many experts are active under another dial is the text's affair; what so many cost is told all the same.
  const bool other_dial = json["experts"] != 0 && json["active"][0]["k"].is_null();
  std::printf("\n%6s %14s %12s\n", other_dial ? "active" : "k", "active params", "FLOPs/token");
  for (const auto& row : json["active"]) {
    std::printf("%6s %14.0f %12.4g\n", json["experts"] == 0 ? "-" : row["active_experts"].dump().c_str(),
                row["active_parameters"].get<double>(), row["flops_per_token"].get<double>());
  }
  const auto& memory = json["memory"];
  print_memory("training", memory["training"], memory["limit"]);
  print_memory("generation", memory["generation"], memory["limit"]);
  if (!json.contains("tensors")) return;
  std::printf("\n%-36s %-6s %-18s %s\n", "tensor", "dtype", "shape", "SHA-256");
  for (const auto& tensor : json["tensors"]) {
    std::printf("%-36s %-6s %-18s %.12s\n", tensor["name"].get<std::string>().c_str(),
                tensor["dtype"].get<std::string>().c_str(), tensor["shape"].dump().c_str(),
                tensor["sha256"].get<std::string>().c_str());
  }
}

int inspect(const InspectOptions& options) {
  require(is_there(options.source), options.source, ": no such run, checkpoint or recipe");
  const Inspected inspected = is_folder(options.source) ? inspect_checkpoint(options) : inspect_recipe(options);
  const bool has_experts = inspected.model->spec().has_moe();
  require(has_experts || options.k.empty(), "--k: ", options.source, " is a dense model and has no k; leave --k out");
  const std::vector<int64_t> ks =
      has_experts ? parse_ks(options.k, inspected.model->spec().moe.experts) : std::vector<int64_t>{1};
  const nlohmann::ordered_json json = describe(inspected, ks);
  if (options.json) {
    std::printf("%s\n", json.dump(2).c_str());
  } else {
    print(json);
  }
  return 0;
}

}  // namespace

void add_inspect(Program& program) {
  CLI::App* verb = add_verb(program, "inspect", "what a model or a recipe consists of, costs and needs",
                            "smoe inspect recipes/table1/smoe_dropout.toml --k all\n  smoe inspect runs/first --json");
  const auto options = std::make_shared<InspectOptions>();
  verb->add_option("source", options->source, "a run (its best checkpoint at k = E), a checkpoint, or a recipe")
      ->type_name("MODEL|RECIPE.toml")
      ->required();
  verb->add_option("--k", options->k, "active experts: numbers with commas between them, or all; default 1, 2, 4 … E")
      ->type_name("LIST");
  verb->add_option("--data", options->data, "the text of a recipe, where its format looks at it (enwik8)")
      ->type_name("FILE|DIR");
  verb->add_option("--set", options->set, "set one key of the recipe; may stand more than once")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  verb->add_flag("--json", options->json, "print one JSON object");
  verb->callback([&program, options] { program.work = [options] { return inspect(*options); }; });
}

}  // namespace smoe::cli
