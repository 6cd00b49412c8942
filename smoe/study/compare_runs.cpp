#include "smoe/study/compare_runs.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <thread>

#include <nlohmann/json.hpp>

#include "smoe/base/child_process.h"
#include "smoe/base/error.h"
#include "smoe/base/file.h"
#include "smoe/base/json.h"
#include "smoe/base/progress.h"
#include "smoe/base/quote.h"
#include "smoe/study/run_record.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

/// The folder is ours until this process and its children end.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder) {
    const std::filesystem::path path = folder / "lock";
    descriptor_ =
        ::open(path.c_str(), O_RDWR | O_CREAT, 0666);  // inherited: a child that outlives us still works there
    require(descriptor_ >= 0, path.string(), ": cannot be written");
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
    ::close(descriptor_);
    throw UserError(concat(folder.string(), ": another smoe compare is at work in it"));
  }
  ~FolderLock() { ::close(descriptor_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

/// What a finished evaluation was asked for; the file is there in whole or not at all.
bool is_evaluated(const PlannedRun& run, const RunPaths& paths) {
  if (!is_there(paths.evaluation)) return false;
  const Json json = read_json_object(paths.evaluation);
  return json.value("arguments", Json()) == Json(run.evaluate);
}

/// The first argument that differs, with the option it belongs to; "nothing more" past the last one.
std::string argument_at(const std::vector<std::string>& arguments, size_t place) {
  if (place >= arguments.size()) return "nothing more";
  const bool has_option = place > 0 && arguments[place - 1].starts_with("--") && !arguments[place].starts_with("--");
  return has_option ? arguments[place - 1] + " " + arguments[place] : arguments[place];
}

/// A run may be gone on with only as what it was begun.
void check_stamp(const PlannedRun& run, const RunPaths& paths) {
  if (!is_there(paths.stamp)) return;
  std::vector<std::string> begun;
  const Json json = read_json_object(paths.stamp);
  for (const Json& argument : json.value("train", Json::array())) {
    begun.push_back(argument.is_string() ? argument.get<std::string>() : argument.dump());
  }
  const auto differs = std::mismatch(begun.begin(), begun.end(), run.train.begin(), run.train.end());
  const auto place = static_cast<size_t>(differs.first - begun.begin());
  require(begun == run.train, paths.run.string(), ": was begun with other settings, ",
          printable(argument_at(begun, place)), " where there now is ", printable(argument_at(run.train, place)),
          "; remove it, or choose another folder with -o");
}

std::string last_line_of(const std::filesystem::path& path) {
  std::string text = is_there(path) ? read_file(path) : "";
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(text.rfind('\n') + 1);  // npos + 1 is 0
}

/// One run on its way through training and evaluation.
class RunningJob {
 public:
  RunningJob(const PlannedRun& run, const CompareJobs& jobs) : run_(run), jobs_(jobs), paths_(jobs.folder, run) {
    write_file_atomic(paths_.stamp, Json{{"train", run.train}}.dump(2) + "\n");
    start_training();
  }

  const PlannedRun& run() const { return run_; }
  const std::string& failure() const { return failure_; }
  void signal(int number) { child_->signal(number); }

  /// Whether the run is through, for good or ill.
  bool advance() {
    const std::optional<int> code = child_->poll();
    if (!code) return false;
    if (*code != 0) {
      const std::string words = last_line_of(paths_.log);
      failure_ = concat(evaluating_ ? "smoe eval" : "smoe train", " ended with exit code ", *code,
                        words.empty() ? "" : ": " + words, " (log: ", paths_.log.string(), ")");
      return true;
    }
    if (!evaluating_) {
      start_evaluation();
      return false;
    }
    store_evaluation();
    return true;
  }

  ProgressBoard::Line line() const {
    const int64_t step = evaluating_ ? run_.steps : logged_step(paths_.run / "metrics.jsonl");
    return {run_.name, step, run_.steps, evaluating_ ? "evaluating" : concat("step ", step, " of ", run_.steps)};
  }

 private:
  std::filesystem::path output() const { return paths_.log.string() + ".out"; }

  void start(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--threads", std::to_string(jobs_.threads)});
    child_ = std::make_unique<ChildProcess>(jobs_.tool, arguments, output(), paths_.log);
  }

  void start_training() {
    const bool begun = is_there(paths_.run / "recipe.toml");
    if (begun && read_run(paths_.run).is_finished()) return start_evaluation();
    if (begun) return start({"train", "--resume", paths_.run.string()});
    remove_tree(paths_.run);  // of a run that was killed before it had its recipe
    std::vector<std::string> arguments{"train"};
    arguments.insert(arguments.end(), run_.train.begin(), run_.train.end());
    arguments.insert(arguments.end(), {"--out", paths_.run.string()});
    start(std::move(arguments));
  }

  void start_evaluation() {
    evaluating_ = true;
    std::vector<std::string> arguments{"eval", paths_.run.string(), "--json"};
    arguments.insert(arguments.end(), run_.evaluate.begin(), run_.evaluate.end());
    start(std::move(arguments));
  }

  void store_evaluation() {
    const Json result = Json::parse(read_file(output()), nullptr, false);
    if (!result.is_object()) {
      failure_ = concat("smoe eval printed no JSON object (", output().string(), ")");
      return;
    }
    write_file_atomic(paths_.evaluation, Json{{"arguments", run_.evaluate}, {"evaluation", result}}.dump(2) + "\n");
    std::filesystem::remove(output());
  }

  const PlannedRun& run_;
  const CompareJobs& jobs_;
  RunPaths paths_;
  std::unique_ptr<ChildProcess> child_;
  bool evaluating_ = false;
  std::string failure_;
};

/// The comparison at work.
class Runner {
 public:
  Runner(const std::vector<PlannedRun>& runs, const CompareJobs& jobs, const std::atomic<int>& stop)
      : runs_(runs), jobs_(jobs), stop_(stop), board_(jobs.progress), start_(Clock::now()) {
    for (const PlannedRun& run : runs) {
      const RunPaths paths(jobs.folder, run);
      if (is_evaluated(run, paths)) {
        ++done_;
      } else {
        waiting_.push_back(&run);
      }
    }
    done_before_ = done_;
    if (done_ > 0) board_.note(concat(done_, " of ", runs.size(), " runs are done already"));
  }

  std::vector<FailedRun> work() {
    bool told = false;
    while ((!waiting_.empty() && stop_ == 0) || !active_.empty()) {
      while (stop_ == 0 && !waiting_.empty() && std::ssize(active_) < jobs_.jobs) {
        active_.push_back(std::make_unique<RunningJob>(*waiting_.front(), jobs_));
        waiting_.erase(waiting_.begin());
      }
      if (stop_ != 0 && !std::exchange(told, true)) {
        for (const auto& job : active_) job->signal(stop_);
      }
      collect();
      show();
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    return std::move(failed_);
  }

 private:
  void collect() {
    std::erase_if(active_, [&](const std::unique_ptr<RunningJob>& job) {
      if (!job->advance()) return false;
      if (job->failure().empty()) {
        ++done_;
        board_.note(concat(job->run().name, ": done (", done_, " of ", runs_.size(), ")"));
      } else if (stop_ == 0) {
        failed_.push_back({job->run().name, job->failure()});
        board_.note(concat(job->run().name, ": failed: ", job->failure()));
      }
      return true;
    });
  }

  void show() {
    std::vector<ProgressBoard::Line> lines;
    double parts = 0;  // of runs, done since we began
    for (const auto& job : active_) {
      lines.push_back(job->line());
      parts += static_cast<double>(lines.back().done) / static_cast<double>(std::max<int64_t>(lines.back().total, 1));
    }
    parts += static_cast<double>(done_ - done_before_);
    const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    const double missing = static_cast<double>(std::ssize(runs_) - done_before_) - parts;
    std::string text = concat(done_, " of ", runs_.size(), " runs");
    if (!failed_.empty()) text += concat(", ", failed_.size(), " failed");
    if (parts > 0.02) text += "  " + format_duration(elapsed / parts * missing) + " left";
    constexpr double kFine = 1000;
    lines.insert(lines.begin(), {jobs_.folder.filename().string(),
                                 static_cast<int64_t>(kFine * (parts + static_cast<double>(done_before_))),
                                 static_cast<int64_t>(kFine) * std::ssize(runs_), text});
    board_.show(std::move(lines));
  }

  const std::vector<PlannedRun>& runs_;
  const CompareJobs& jobs_;
  const std::atomic<int>& stop_;
  ProgressBoard board_;
  Clock::time_point start_;
  std::vector<const PlannedRun*> waiting_;
  std::vector<std::unique_ptr<RunningJob>> active_;
  std::vector<FailedRun> failed_;
  int64_t done_ = 0, done_before_ = 0;
};

}  // namespace

RunPaths::RunPaths(const std::filesystem::path& comparison, const PlannedRun& of) {
  const std::filesystem::path stem = comparison / "runs" / of.name;
  run = stem;
  stamp = stem.string() + ".json";
  evaluation = stem.string() + ".eval.json";
  log = stem.string() + ".log";
}

std::vector<PlannedRun> planned_runs(const ComparePlan& plan, const std::vector<int64_t>& steps,
                                     const std::string& data) {
  require(steps.size() == plan.entries.size(), "planned_runs: ", plan.entries.size(),
          " entries need as many steps, got ", steps.size());
  constexpr int64_t kLogLines = 100;
  std::vector<PlannedRun> runs;
  int64_t most = 0;
  for (const CompareEntry& entry : plan.entries) most = std::max(most, entry.seeds);
  for (int64_t i = 0; i < most; ++i) {
    for (size_t e = 0; e < plan.entries.size(); ++e) {
      const CompareEntry& entry = plan.entries[e];
      if (i >= entry.seeds) continue;
      PlannedRun run{.entry = entry.name,
                     .name = concat(entry.name, "-seed", plan.first_seed + i),
                     .seed = plan.first_seed + i,
                     .steps = steps[e],
                     .train = {},
                     .evaluate = {}};
      run.train = {plan.base.string(), "--data", data, "--seed", std::to_string(run.seed)};
      const auto set = [&](const std::string& name, const std::string& value) {
        run.train.insert(run.train.end(), {"--set", name + "=" + value});
      };
      set("train.log_every", std::to_string(std::max<int64_t>(1, steps[e] / kLogLines)));
      for (const RawSetting& setting : entry.settings) set(setting.name, value_text(setting.value));
      set("train.steps", std::to_string(steps[e]));
      for (const auto& [option, value] : entry.evaluation) {
        run.evaluate.insert(run.evaluate.end(), {"--" + option, value});
      }
      runs.push_back(std::move(run));
    }
  }
  return runs;
}

std::vector<FailedRun> do_runs(const std::vector<PlannedRun>& runs, const CompareJobs& jobs,
                               const std::atomic<int>& stop) {
  make_folders(jobs.folder / "runs");
  const FolderLock lock(jobs.folder);
  for (const PlannedRun& run : runs) check_stamp(run, RunPaths(jobs.folder, run));
  return Runner(runs, jobs, stop).work();
}

}  // namespace smoe
