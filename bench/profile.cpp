#include "bench/profile.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "bench/samples.h"

namespace smoe::bench {
namespace {

constexpr const char* kPrefix = "smoe.";  // of the names of parts
constexpr const char* kRest = "rest";

/// What the profiler says of one call, in its place among the others.
struct Event {
  std::string name, part;
  uint64_t thread, begin, end;
  int64_t sequence;
  at::RecordScope scope;
  Event* caller = nullptr;
  uint64_t in_calls = 0;  ///< nanoseconds that the events below take
};

bool is_part(const Event& event) {
  return event.scope == at::RecordScope::USER_SCOPE && event.name.starts_with(kPrefix);
}

std::vector<Event> record(const std::function<void()>& work, double& seconds) {
  namespace profiler = torch::autograd::profiler;
  const std::set<torch::profiler::impl::ActivityType> activities = {torch::profiler::impl::ActivityType::CPU};
  const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  ::setenv("KINETO_LOG_LEVEL", "99", /*overwrite=*/0);  // it would tell on stderr that it begins and ends
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  seconds = seconds_of(work);
  const std::unique_ptr<profiler::ProfilerResult> result = profiler::disableProfiler();
  std::vector<Event> events;
  for (const profiler::KinetoEvent& e : result->events()) {
    events.push_back({.name = e.name(),
                      .part = "",
                      .thread = e.startThreadId(),
                      .begin = e.startNs(),
                      .end = e.endNs(),
                      .sequence = e.sequenceNr(),
                      .scope = static_cast<at::RecordScope>(e.scope())});
  }
  return events;
}

/// Sorts by thread and time, and finds each event's caller: the innermost one that surrounds it.
void find_callers(std::vector<Event>& events) {
  std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return a.thread != b.thread ? a.thread < b.thread : a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });
  Event* open = nullptr;
  for (Event& event : events) {
    while (open != nullptr && (open->thread != event.thread || open->end < event.end)) open = open->caller;
    event.caller = open;
    if (open != nullptr) open->in_calls += event.end - event.begin;
    open = &event;
  }
}

/// A node of the backward pass, or the engine's own work around one.
bool is_backward(const Event& event) {
  return event.scope == at::RecordScope::BACKWARD_FUNCTION || event.name.starts_with("autograd::engine::evaluate");
}

/// The part of each event: its own name where it is one, else its caller's; for a node of the backward pass, that of the
/// last thing that happened in the forward pass before there was a node of this number.
void find_parts(std::vector<Event>& events) {
  std::map<int64_t, std::string> part_at;  // by the number of the node that is made next
  for (Event& event : events) {
    event.part = event.caller == nullptr ? kRest : event.caller->part;
    if (is_part(event)) event.part = event.name.substr(std::string(kPrefix).size());
    if (event.sequence < 0) continue;
    if (!is_backward(event)) {
      part_at[event.sequence] = event.part;
    } else if (const auto after = part_at.upper_bound(event.sequence); after != part_at.begin()) {
      event.part = std::prev(after)->second;
    }
  }
}

}  // namespace

Profile profile(const std::function<void()>& work) {
  Profile out;
  double seconds = 0;
  std::vector<Event> events = record(work, seconds);
  out.ms = seconds * 1e3;
  find_callers(events);
  find_parts(events);
  std::map<std::pair<std::string, std::string>, ProfileLine> lines;
  for (const Event& event : events) {
    ProfileLine& line = lines[{event.part, event.name}];
    line.part = event.part;
    line.name = event.name;
    ++line.calls;
    line.self_ms += static_cast<double>(event.end - event.begin - event.in_calls) / 1e6;
  }
  for (auto& [key, line] : lines) out.lines.push_back(std::move(line));
  std::stable_sort(out.lines.begin(), out.lines.end(),
                   [](const ProfileLine& a, const ProfileLine& b) { return a.self_ms > b.self_ms; });
  return out;
}

nlohmann::ordered_json to_json(const Profile& profile, int64_t steps) {
  using Json = nlohmann::ordered_json;
  const auto of_one = [steps](double ms) { return ms / static_cast<double>(steps); };
  std::map<std::string, double> parts;
  double inside = 0;
  Json json{{"steps", steps}, {"ms", of_one(profile.ms)}, {"parts", Json::array()}, {"operators", Json::array()}};
  for (const ProfileLine& line : profile.lines) {
    parts[line.part] += line.self_ms;
    inside += line.self_ms;
    json["operators"].push_back({{"part", line.part},
                                 {"name", line.name},
                                 {"calls", static_cast<double>(line.calls) / static_cast<double>(steps)},
                                 {"self_ms", of_one(line.self_ms)}});
  }
  parts[kRest] += std::max(0.0, profile.ms - inside);
  std::vector<std::pair<std::string, double>> sorted(parts.begin(), parts.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [part, ms] : sorted) {
    json["parts"].push_back({{"part", part}, {"ms", of_one(ms)}, {"share", ms / profile.ms}});
  }
  return json;
}

}  // namespace smoe::bench
