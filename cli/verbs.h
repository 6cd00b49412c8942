// The verbs of the tool, one file each.
#pragma once

#include <CLI/CLI.hpp>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "smoe/train/recipe.h"

namespace smoe {
class LanguageModel;
}

namespace smoe::cli {

/// What parsing the command line decides: the verb's work, to be done once all of it is known to be right.
struct Program {
  CLI::App& app;
  std::function<int()> work;  ///< returns the exit code
};

void add_train(Program& program);     // train.cpp
void add_eval(Program& program);      // eval.cpp
void add_generate(Program& program);  // generate.cpp
void add_settings(Program& program);  // settings.cpp
void add_report(Program& program);    // report.cpp
void add_inspect(Program& program);   // inspect.cpp
void add_slim(Program& program);      // slim.cpp
void add_upcycle(Program& program);   // upcycle.cpp
void add_analyze(Program& program);   // analyze.cpp
void add_compare(Program& program);   // compare.cpp
void add_bench(Program& program);     // bench.cpp
void add_list(Program& program);      // list.cpp

/// Adds a verb with its line of help and an example that stands below its options.
CLI::App* add_verb(Program& program, const std::string& name, const std::string& help, const std::string& example);
/// The same below a verb that has parts.
CLI::App* add_verb(CLI::App& parent, const std::string& name, const std::string& help, const std::string& example);

/// The numbers of "1,2,4"; throws UserError naming `option` where the text is something else. `or_what` goes on after
/// "takes numbers with commas between them".
std::vector<int64_t> parse_numbers(const std::string& option, const std::string& text, const std::string& or_what = "");

/// --threads and --device, which all computing verbs share.
struct ComputeOptions {
  int64_t threads = 0;
  std::string device;

  void add_to(CLI::App& verb);
  /// Sets LibTorch's threads; throws UserError for a device that is not there.
  void apply() const;
};

/// Throws UserError where --k or --dial is given for a model whose dial is another; `name` is the model's for messages.
void check_dial_options(const LanguageModel& model, const std::string& name, bool has_k, bool has_dial);

/// A line on stderr where the model's router sees later tokens, so that its bpc is not that of a model that reads on.
void warn_of_lookahead(const LanguageModel& model, const std::string& name);

/// The recipe at `path` with each key=value of `set`, and `data` as its text where that is not empty, by its absolute
/// path. Not checked yet, since a verb may have more to set.
Recipe read_recipe(const std::string& path, const std::vector<std::string>& set, const std::string& data);

/// The k that a --k asks for: the numbers of "1,2,4", 1 … E for "all", and where the text is empty the powers of two up
/// to E, and E. Throws UserError for anything else.
std::vector<int64_t> parse_ks(const std::string& text, int64_t experts);

/// From here on the first SIGINT or SIGTERM is noted, for work that saves and ends when it sees it; a second one ends the
/// program as usual. Returns where the signal's number is noted; 0 until then.
const std::atomic<int>& stop_gently();

/// Three lines: smoe, LibTorch, processor and threads.
std::string version_text();

}  // namespace smoe::cli
