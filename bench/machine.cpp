#include "bench/machine.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <thread>

#include <nlohmann/json.hpp>

#include "smoe/tensor/gpu.h"
#include "smoe/tensor/torch_compat.h"

namespace smoe::bench {
namespace {

/// What stands behind "KEY :" in the first entry of /proc/cpuinfo that has it; empty where none has.
std::string cpuinfo(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line.find_last_not_of(" \t", colon - 1) + 1 != key.size()) continue;
    if (line.starts_with(key)) return line.substr(std::min(line.size(), colon + 2));
  }
  return "";
}

std::vector<std::string> features() {
  constexpr std::array kKnown = {"sse4_2",   "avx",      "f16c",     "fma",      "avx2",        "avx_vnni",
                                 "avx512f",  "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
                                 "amx_tile", "amx_bf16", "asimd",    "sve",      "bf16"};
  std::istringstream flags(cpuinfo("flags") + " " + cpuinfo("Features"));  // x86 says flags, ARM Features
  std::vector<std::string> out;
  for (std::string flag; flags >> flag;) {
    if (std::find(kKnown.begin(), kKnown.end(), flag) != kKnown.end()) out.push_back(flag);
  }
  return out;
}

}  // namespace

Caches caches() {
  Caches out;
  for (int i = 0; i < 8; ++i) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/";
    std::string type, unit;
    int level = 0;
    int64_t size = 0;
    std::ifstream(folder + "type") >> type;
    std::ifstream(folder + "level") >> level;
    std::ifstream(folder + "size") >> size >> unit;
    if (type.empty() || type == "Instruction") continue;
    size *= unit == "M" ? 1 << 20 : unit == "K" ? 1 << 10 : 1;
    if (level == 1) out.l1 = size;
    if (level == 2) out.l2 = size;
    if (level == 3) out.l3 = size;
  }
  return out;
}

int64_t physical_memory() { return int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE); }

nlohmann::ordered_json machine() {
  std::string cpu = cpuinfo("model name");
  if (cpu.empty()) cpu = "unknown";
  const Caches size = caches();
  const std::string gpu = gpu_name();
  return {{"cpu", cpu},
          {"features", features()},
          {"cores", std::thread::hardware_concurrency()},
          {"caches", {{"l1_bytes", size.l1}, {"l2_bytes", size.l2}, {"l3_bytes", size.l3}}},
          {"memory_bytes", physical_memory()},
          {"gpu", gpu.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(gpu)},
          {"libtorch", libtorch_version()}};
}

}  // namespace smoe::bench
