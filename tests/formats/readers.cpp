#include "tests/formats/readers.h"

#include <algorithm>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "smoe/base/config.h"
#include "smoe/base/event_log.h"
#include "smoe/base/file.h"
#include "smoe/base/json.h"
#include "smoe/base/json_lines.h"
#include "smoe/base/manifest.h"
#include "smoe/base/safetensors.h"
#include "smoe/data/language_table.h"
#include "smoe/data/tokenizers/byte_vocabulary.h"
#include "smoe/models/checkpoint_index.h"
#include "smoe/plan/trace_file.h"
#include "smoe/study/analyze.h"
#include "smoe/study/compare_plan.h"
#include "smoe/study/compare_results.h"
#include "smoe/study/report.h"
#include "tests/base/small_config.h"

namespace smoe {
namespace {

constexpr int64_t kKeptStep = 7;  // logs are cut behind it

void expect(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

void read_safetensors(const std::filesystem::path& file) {
  const MappedFile map(file);
  const SafetensorsView view = parse_safetensors(map.bytes(), file.string());
  const std::filesystem::path copy = file.string() + ".copy";
  write_safetensors(copy, view.tensors, view.metadata);
  const MappedFile copy_map(copy);
  const SafetensorsView again = parse_safetensors(copy_map.bytes(), copy.string());
  const auto same = [](const TensorBytes& a, const TensorBytes& b) {
    return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && as_text(a.bytes) == as_text(b.bytes);
  };
  expect(again.metadata == view.metadata, "the metadata changed by being written");
  expect(std::equal(again.tensors.begin(), again.tensors.end(), view.tensors.begin(), view.tensors.end(), same),
         "the tensors changed by being written");
  for (const TensorBytes& tensor : view.tensors) expect(view.find(tensor.name) == &tensor, "a tensor is not found");
}

void read_recipe(const std::filesystem::path& file) {
  SmallConfig config, again;
  Fields fields, fields_again;
  config.describe(fields);
  again.describe(fields_again);
  read_toml_file(fields, file.string());
  read_toml(fields_again, to_toml(fields), "again");
  expect(to_toml(fields_again) == to_toml(fields), "the settings changed by being written");
}

void read_config(const std::filesystem::path& file) {
  SmallConfig config, again;
  Fields fields, fields_again;
  config.describe(fields);
  again.describe(fields_again);
  from_json(fields, read_json_object(file), file.string());
  from_json(fields_again, parse_json(to_json(fields).dump(), "again"), "again");
  expect(to_toml(fields_again) == to_toml(fields), "the settings changed by being written");
}

void read_languages(const std::filesystem::path& file) {
  const LanguageTable table = read_language_table(file);
  std::vector<bool> used(table.families.size());
  for (const Language& language : table.languages) {
    expect(!language.name.empty() && !language.files.empty(), "a language has no name or no file");
    used.at(static_cast<size_t>(language.family)) = true;
  }
  expect(!used.empty() && std::find(used.begin(), used.end(), false) == used.end(), "a family is nobody's");
}

void read_plan(const std::filesystem::path& file) {
  for (const CompareEntry& entry : read_compare_plan(file).entries) {
    expect(is_file_name(entry.name) && entry.seeds >= 1, "an entry cannot name its runs");
  }
}

/// The evaluation of a run that smoe compare did, beside the run.
void read_evaluation(const std::filesystem::path& file) {
  ComparePlan plan;
  plan.entries = {{.name = "a", .summary = "", .settings = {}, .seeds = 1, .evaluation = {}}};
  const PlannedRun run{.entry = "a", .name = "a-seed1", .seed = 1, .steps = 10, .train = {}, .evaluate = {}};
  const std::filesystem::path folder = file.parent_path().parent_path();
  expect(RunPaths(folder, run).evaluation == file, "the evaluation is not looked for where it is");
  const Comparison comparison = read_comparison(plan, {run}, folder);
  const std::string json = to_json(comparison).dump();
  expect(nlohmann::ordered_json::accept(json), "the results are no JSON");
  expect(!comparison_table(comparison).empty() && !comparison_page(comparison).empty(), "nothing is shown");
}

/// A trace of smoe analyze.
void read_trace_file(const std::filesystem::path& file) {
  const RoutingTrace trace = read_trace(file);
  const std::filesystem::path copy = file.string() + ".copy", again = file.string() + ".again";
  write_trace(copy, trace);
  write_trace(again, read_trace(copy));
  expect(read_file(copy) == read_file(again), "the trace changed by being written");
  const nlohmann::ordered_json data = analysis_data({{"trace", trace}});
  expect(nlohmann::ordered_json::accept(data.dump()), "the analysis is no JSON");
  expect(!analysis_table(data).empty() && !analysis_page(data).empty(), "nothing is shown");
}

void read_manifest(const std::filesystem::path& file) { verify_manifest(file.parent_path()); }

void read_index(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  write_checkpoint_index(file.parent_path(), read_checkpoint_index(file.parent_path()));
  expect(read_file(file) == text, "the index changed by being written");
}

void read_tokenizer(const std::filesystem::path& file) {
  const ByteVocabulary vocabulary = ByteVocabulary::from_json(read_json_object(file), file.string());
  const ByteVocabulary again = ByteVocabulary::from_json(vocabulary.to_json(), "again");
  expect(again.size() == vocabulary.size() && again.format() == vocabulary.format(), "the tokenizer changed");
  std::string text;
  for (int64_t id = 0; id < vocabulary.size(); ++id) {
    expect(vocabulary.id(vocabulary.byte(id)) == id && again.byte(id) == vocabulary.byte(id), "ids and bytes differ");
    text += static_cast<char>(vocabulary.byte(id));
  }
  expect(vocabulary.encode(as_bytes(text), "text").size() == text.size(), "a token vanishes");
}

/// A log of a run, as smoe report reads it.
void read_log_for_report(const std::filesystem::path& file) {
  const nlohmann::ordered_json data = report_data({read_run(file.parent_path())}, {.lines = 8, .columns = 3});
  const std::string page = report_page(data, 0);
  // What a browser would read.
  const std::string open = "id=\"data\">";
  const size_t begin = page.find(open) + open.size();
  const std::string text = page.substr(begin, page.find("</script>", begin) - begin);
  expect(nlohmann::ordered_json::accept(text), "the page holds no JSON");
}

/// A log that is cut where a run resumes: `open` cuts.
template <class Open>
void resume_log(const std::filesystem::path& file, Open open) {
  const std::string before = read_file(file);
  open();
  const std::string kept = read_file(file);
  expect(before.starts_with(kept), "more was done than cut");
  open();
  expect(read_file(file) == kept, "cutting again cuts more");
}

void read_log_to_resume(const std::filesystem::path& file) {
  resume_log(file, [&] { JsonLines(file, kKeptStep).sync(); });
}

void read_events_to_resume(const std::filesystem::path& file) {
  const auto open = [&] { EventLog(file, kKeptStep).sync(); };
  // Of a log without a whole first record nothing is kept, and it is begun anew.
  const std::string before = read_file(file);
  open();
  if (read_file(file).size() > before.size()) return;
  resume_log(file, open);
}

}  // namespace

const std::vector<Format>& formats() {
  static const std::vector<Format> kFormats = {
      {"safetensors", "model.safetensors", read_safetensors},
      {"recipe", "recipe.toml", read_recipe},
      {"config", "config.json", read_config},
      {"plan", "plan.toml", read_plan},
      {"languages", "languages.toml", read_languages},
      {"evaluation", "runs/a-seed1.eval.json", read_evaluation},
      {"manifest", "checkpoint/manifest.json", read_manifest},
      {"index", "checkpoints/index.json", read_index},
      {"tokenizer", "tokenizer.json", read_tokenizer},
      {"metrics", "run/metrics.jsonl", read_log_for_report},
      {"evaluations", "run/evaluations.jsonl", read_log_for_report},
      {"log", "log.jsonl", read_log_to_resume},
      {"trace", "trace.safetensors", read_trace_file},
      {"events", kEventLogName, read_events_to_resume},
  };
  return kFormats;
}

const Format& find_format(std::string_view name) {
  for (const Format& format : formats()) {
    if (name == format.name) return format;
  }
  throw std::invalid_argument("there is no format called " + std::string(name));
}

FormatPlace::FormatPlace(const Format& format) : format_(format) {
  for (const char* name :
       {"run", "runs/a-seed1", "checkpoint", "checkpoints/step-00000005", "checkpoints/step-00000010"}) {
    std::filesystem::create_directories(folder_ / name);
  }
  for (const char* name : {"run/recipe.toml", "runs/a-seed1/recipe.toml"}) {
    folder_.put(name, "[train]\nsteps = 10\n");
  }
  folder_.put("checkpoint/config.json", "{}\n");
  folder_.put("checkpoint/model.safetensors", "abc");
}

std::string FormatPlace::fault(std::string_view bytes) const {
  const std::filesystem::path path = folder_.put(format_.file, std::string(bytes));
  std::string message;
  try {
    format_.read(path);
    return "";
  } catch (const UserError& error) {
    message = error.what();
  }
  const std::string folder = folder_.path().string();
  const size_t place = message.find(folder);
  expect(place == 0, "a message does not begin with the file's name");
  message.replace(place, folder.size(), "DIR");
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '\x7f'; };
  expect(std::none_of(message.begin(), message.end(), is_control), "a message is more than one line");
  expect(message.size() < 600, "a message is too long to be read");
  return message;
}

}  // namespace smoe
