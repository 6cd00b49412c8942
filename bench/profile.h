// Where the time of a program goes, by LibTorch's own profiler.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace smoe::bench {

/// An operator in one part of the model.
struct ProfileLine {
  std::string part;  ///< as tensor/profiled_part.h names it: "attention"; "rest" where nothing does
  std::string name;  ///< of the operator; of a part itself, what it does outside operators
  int64_t calls = 0;
  double self_ms = 0;  ///< without what it calls
};

struct Profile {
  double ms = 0;                   ///< of the whole
  std::vector<ProfileLine> lines;  ///< the slowest first
};

/// Runs `work` and tells operators' times on the CPU. Work of the backward pass counts for the part whose forward pass
/// made it.
Profile profile(const std::function<void()>& work);

/// {"steps", "ms", "parts": [{"part", "ms", "share"}], "operators": [{"part", "name", "calls", "self_ms"}]}, all but
/// "steps" for one of `steps` steps that were run. Time that no operator took is in the part "rest".
nlohmann::ordered_json to_json(const Profile& profile, int64_t steps);

}  // namespace smoe::bench
