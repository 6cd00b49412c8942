// smoe report: a page about runs, written once or again and again while they train.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/study/report.h"

namespace smoe::cli {
namespace {

struct ReportOptions {
  std::vector<std::string> runs;
  std::string out;
  bool watch = false;
  int64_t every = 10;
};

std::vector<RunRecord> read_runs(const std::vector<std::string>& paths) {
  std::vector<RunRecord> runs;
  for (const std::string& path : paths) runs.push_back(read_run(path));
  return runs;
}

bool all_finished(const std::vector<RunRecord>& runs) {
  return std::all_of(runs.begin(), runs.end(), [](const RunRecord& run) { return run.is_finished(); });
}

int report(const ReportOptions& options) {
  require(options.every >= 1 && options.every <= 86400, "--every must be between 1 and 86400 seconds, got ",
          options.every);
  require(!options.out.empty() || options.runs.size() == 1,
          "report: of several runs, -o FILE must say where the page goes");
  const std::filesystem::path out =
      options.out.empty() ? std::filesystem::path(options.runs[0]) / "report.html" : std::filesystem::path(options.out);
  // The first signal ends the watch with a last page, which does not load itself again.
  const std::atomic<int> no_signal = 0;
  const std::atomic<int>& stop_signal = options.watch ? stop_gently() : no_signal;
  std::vector<RunRecord> runs = read_runs(options.runs);
  bool ends = !options.watch || all_finished(runs);
  while (!ends) {
    write_file_atomic(out, report_page(report_data(runs), options.every));
    std::fprintf(stderr, "smoe: %s is up to date with step %lld; Ctrl-C ends the watch\n", out.c_str(),
                 static_cast<long long>(runs[0].step()));
    for (int64_t tenth = 0; tenth < 10 * options.every && stop_signal == 0; ++tenth) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    runs = read_runs(options.runs);
    ends = stop_signal != 0 || all_finished(runs);
  }
  write_file_atomic(out, report_page(report_data(runs), 0));
  std::printf("%s\n", out.c_str());
  return 0;
}

}  // namespace

void add_report(Program& program) {
  CLI::App* verb = add_verb(program, "report", "write a page about one run, or several side by side",
                            "smoe report runs/first\n  smoe report runs/first runs/second -o both.html\n"
                            "  smoe report --watch runs/first");
  const auto options = std::make_shared<ReportOptions>();
  verb->add_option("runs", options->runs, "the runs")->type_name("RUN")->required();
  verb->add_option("-o,--out", options->out, "the page, one HTML file; default report.html in the run")
      ->type_name("FILE");
  verb->add_flag("--watch", options->watch, "write it again while the run trains, until it has its last checkpoint");
  verb->add_option("--every", options->every, "seconds between two writings of --watch")
      ->capture_default_str()
      ->type_name("N");
  verb->callback([&program, options] { program.work = [options] { return report(*options); }; });
}

}  // namespace smoe::cli
