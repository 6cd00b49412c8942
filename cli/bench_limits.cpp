// smoe bench limits: what the machine can do at most.
#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

#include "bench/limits.h"
#include "cli/bench.h"

namespace smoe::cli {
namespace {

void print_limits(const nlohmann::ordered_json& limits) {
  std::printf("%s\n", machine_text(limits).c_str());
  std::printf("%-6s %-12s %9s\n", "blocks", "m x n x k", "GFLOP/s");
  for (const nlohmann::ordered_json& block : limits["blocks"]) {
    std::printf("%-6s %-12s %9.1f\n", block["dtype"].get<std::string>().c_str(),
                block["block"].get<std::string>().c_str(), block["gflops"].get<double>());
  }
  std::printf("%-6s %-12s %9s\n", "read", "MiB", "GB/s");
  for (const nlohmann::ordered_json& read : limits["read"]) {
    std::printf("%-6s %-12.1f %9.1f\n", read["level"].get<std::string>().c_str(),
                read["bytes"].get<double>() / (1 << 20), read["gb_per_second"].get<double>());
  }
}

int bench_limits(const BenchOptions& options) {
  options.apply();
  const nlohmann::ordered_json limits = bench::measure_limits(options.repeat);
  if (options.json) {
    print_json({limits});
  } else {
    print_limits(limits);
  }
  return 0;
}

}  // namespace

void add_bench_limits(CLI::App& bench, Program& program) {
  CLI::App* part = add_verb(bench, "limits", "measure the peak of the block microkernels, and how fast memory is read",
                            "smoe bench limits --threads 2");
  const auto options = std::make_shared<BenchOptions>();
  options->add_to(*part, "rounds, of which the median is reported");
  part->callback([&program, options] { program.work = [options] { return bench_limits(*options); }; });
}

}  // namespace smoe::cli
