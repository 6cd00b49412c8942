#include "smoe/base/machine_memory.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

namespace smoe {
namespace {

/// The number that a text begins with; nothing for "max", and where there is none.
std::optional<int64_t> leading_number(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return std::nullopt;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data() + first, text.data() + text.size(), value);
  return error == std::errc() && value > 0 ? std::optional(value) : std::nullopt;
}

/// The lines of a file of /proc or /sys, which have no size to read by; none where it cannot be read.
std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

int64_t physical_memory(const std::filesystem::path& root) {
  constexpr std::string_view kKey = "MemTotal:";
  for (const std::string& line : lines_of(root / "proc/meminfo")) {
    if (line.starts_with(kKey)) return 1024 * leading_number(std::string_view(line).substr(kKey.size())).value_or(0);
  }
  return 0;
}

/// A control group that bounds memory: the mount's folder, the group's path below it, the file with the limit.
struct Group {
  std::filesystem::path mount;
  std::string path;
  const char* file;
};

/// The groups that /proc/self/cgroup lists, lines of "id:controllers:path"; version 2 has no controllers there.
std::vector<Group> memory_groups(const std::filesystem::path& root) {
  std::vector<Group> groups;
  for (const std::string& line : lines_of(root / "proc/self/cgroup")) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") groups.push_back({root / "sys/fs/cgroup", path, "memory.max"});
    if (controllers.find(",memory,") != std::string::npos) {
      groups.push_back({root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes"});
    }
  }
  return groups;
}

}  // namespace

MemoryLimit memory_limit(const std::filesystem::path& root) {
  MemoryLimit limit{.bytes = physical_memory(root), .source = "this machine"};
  for (const Group& group : memory_groups(root)) {
    // A container often sees its own group as the mount's root, whatever path the kernel names: look at each one above.
    std::filesystem::path inner = std::filesystem::path(group.path).relative_path();
    for (bool at_mount = false; !at_mount; inner = inner.parent_path()) {
      at_mount = inner.empty();
      const std::filesystem::path file = group.mount / inner / group.file;
      const std::vector<std::string> lines = lines_of(file);
      const std::optional<int64_t> bytes = lines.empty() ? std::nullopt : leading_number(lines[0]);
      if (bytes && (limit.bytes == 0 || *bytes < limit.bytes)) limit = {.bytes = *bytes, .source = file.string()};
    }
  }
  return limit;
}

std::string bytes_text(double bytes) {
  constexpr std::array<const char*, 6> kUnits = {"B", "kB", "MB", "GB", "TB", "PB"};
  size_t unit = 0;
  while (bytes >= 999.95 && unit + 1 < kUnits.size()) {
    bytes /= 1000;
    ++unit;
  }
  char text[64];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, kUnits[unit]);
  return text;
}

}  // namespace smoe
