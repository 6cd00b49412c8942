// The tool: reads the command line, does what the verb says, and turns every error into one clear line.
#include <c10/util/Exception.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <limits>

#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/base/suggest.h"

namespace smoe::cli {
namespace {

constexpr int kOurFault = 1, kCallersFault = 2;

int report(const std::string& message, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "smoe: %s\n", message.c_str());
  return code;
}

/// Threads that wait for work give up their core. LibTorch's OpenMP runtime reads this once, when the program is
/// loaded, so the program starts itself again where it is not set; spinning collapses when a core is shared.
void wait_passively(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  ::setenv("OMP_WAIT_POLICY", "PASSIVE", 1);
  ::execv("/proc/self/exe", argv);  // returns only where it fails, and then active waiting has to do
}

/// Memory that is freed stays with the program. Every step asks for the same tensors again, and glibc would give large
/// ones back and take them new each time, all pages to be cleared.
void keep_freed_memory() {
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

/// What CLI11 did not understand, in one line with the nearest name that it would have.
std::string describe(const CLI::ParseError& error, const CLI::App& app) {
  const CLI::App* verb = &app;  // the innermost one: of smoe bench layer, layer
  std::string name;
  while (!verb->get_subcommands().empty()) {
    verb = verb->get_subcommands()[0];
    name += (name.empty() ? "" : " ") + verb->get_name();
  }
  const std::vector<std::string> extras = app.remaining(/*recurse=*/true);
  std::vector<std::string> parts;
  for (const CLI::App* part : verb->get_subcommands([](const CLI::App*) { return true; }))
    parts.push_back(part->get_name());
  if (extras.empty()) {
    const std::string help = "; see smoe " + (name.empty() ? name : name + " ") + "--help";
    if (name.empty()) return "name a verb: " + join(parts) + help;
    return name + ": " + (parts.empty() ? error.what() : "name what to measure: " + join(parts)) + help;
  }
  const std::string where = name.empty() ? "" : name + ": ";
  if (!parts.empty() && !extras[0].starts_with("-")) {
    return where + "there is no " + (name.empty() ? "verb" : "part") + " '" + extras[0] + "'" +
           suggest(extras[0], parts);
  }
  std::vector<std::string> known;
  for (const CLI::Option* option : verb->get_options()) {
    for (const std::string& long_name : option->get_lnames()) known.push_back("--" + long_name);
  }
  return where + "unexpected argument '" + extras[0] + "'" + suggest(extras[0].substr(0, extras[0].find('=')), known);
}

int run(int argc, char** argv) {
  CLI::App app("Trains one sparse mixture-of-experts transformer and runs it at any compute budget.", "smoe");
  app.footer(
      "Example:\n  smoe train recipes/demo/smoe_dropout.toml --data text.txt --out runs/first\n"
      "  smoe eval runs/first --k all");
  app.require_subcommand(1);
  app.set_version_flag("--version", version_text());
  Program program{app, {}};
  add_train(program);
  add_eval(program);
  add_generate(program);
  add_report(program);
  add_inspect(program);
  add_slim(program);
  add_upcycle(program);
  add_compare(program);
  add_analyze(program);
  add_settings(program);
  add_bench(program);
  add_list(program);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    return report(describe(error, app), kCallersFault);
  }
  wait_passively(argv);
  keep_freed_memory();
  return program.work();
}

}  // namespace
}  // namespace smoe::cli

int main(int argc, char** argv) {
  using namespace smoe::cli;  // NOLINT
  try {
    return run(argc, argv);
  } catch (const smoe::UserError& error) {
    return report(error.what(), kCallersFault);
  } catch (const smoe::Failure& error) {
    return report(error.what(), kOurFault);
  } catch (const c10::Error& error) {
    return report(error.what_without_backtrace(), kOurFault);
  } catch (const std::exception& error) {
    return report(error.what(), kOurFault);
  }
}
