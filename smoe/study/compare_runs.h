// The runs of a comparison: which there are, and doing them one after the other or side by side.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "smoe/study/compare_plan.h"

namespace smoe {

/// One run of a comparison, with the words that `smoe train` and `smoe eval` get.
struct PlannedRun {
  std::string entry, name;  ///< name: entry and seed, "random-seed1"
  int64_t seed = 0, steps = 0;
  std::vector<std::string> train;     ///< arguments of smoe train but for --out
  std::vector<std::string> evaluate;  ///< arguments of smoe eval after the run
};

/// Every run of the plan, `steps[i]` updates each for entry i: first all entries at the first seed, then the next, so that
/// a comparison that is cut short has something of everything. The log gets about a hundred lines a run unless the entry
/// says otherwise.
std::vector<PlannedRun> planned_runs(const ComparePlan& plan, const std::vector<int64_t>& steps,
                                     const std::string& data);

/// Where the files of a run are: its folder, its evaluation and its log.
struct RunPaths {
  RunPaths(const std::filesystem::path& comparison, const PlannedRun& of);

  std::filesystem::path run, stamp, evaluation, log;
};

struct CompareJobs {
  std::filesystem::path tool;    ///< the program that trains and evaluates
  std::filesystem::path folder;  ///< of the comparison
  int64_t jobs = 1;              ///< runs side by side
  int64_t threads = 1;           ///< of each
  std::FILE* progress = stderr;
};

/// A run that did not come through.
struct FailedRun {
  std::string name, reason;
};

/// Does what is not done yet: a run that was cut off goes on from its checkpoint, and one that has its evaluation stays.
/// A run that fails is noted, and the others go on. A value other than 0 in `stop` is the number of a signal: the runs
/// at work get it, save and end, and no other is started. Throws UserError where the folder holds a run of the same name
/// with other settings or another comparison is at work in it, Failure where a file cannot be written.
std::vector<FailedRun> do_runs(const std::vector<PlannedRun>& runs, const CompareJobs& jobs,
                               const std::atomic<int>& stop);

}  // namespace smoe
