// The parts of smoe bench, one file each, and what they share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <c10/core/Device.h>
#include <nlohmann/json_fwd.hpp>

#include "cli/verbs.h"

namespace smoe::cli {

/// --threads, --repeat and --json.
struct BenchOptions {
  ComputeOptions compute;
  int64_t repeat = 15;
  bool json = false;

  void add_to(CLI::App& part, const std::string& what_is_repeated);
  /// Sets the threads; throws UserError for a --repeat that makes no sense, or a device that is not there.
  void apply() const;
  c10::Device device() const { return {compute.device.empty() ? "cpu" : compute.device}; }
};

/// --device, for what can be measured on a GPU too.
void add_device_option(CLI::App& part, BenchOptions& options);

/// --shape, --dtype, --activation and --kernel of a layer.
struct LayerArguments {
  std::vector<std::string> shapes;
  std::string dtype = "fp32", activation = "relu", kernel = "auto";

  void add_to(CLI::App& part, const std::string& example);
};

/// --kernel, and what it does: makes kernels take their plain bodies; throws UserError for a name that is not known.
void add_kernel_option(CLI::App& part, std::string& kernel);
void choose_kernel(const std::string& kernel);

/// Prints one result as an object, several as an array.
void print_json(const std::vector<nlohmann::ordered_json>& results);

/// "2 threads, AMD EPYC", or the GPU's name, from the fields of a result.
std::string machine_text(const nlohmann::ordered_json& result);

void add_bench_layer(CLI::App& bench, Program& program);   // bench_layer.cpp
void add_bench_limits(CLI::App& bench, Program& program);  // bench_limits.cpp
void add_bench_step(CLI::App& bench, Program& program);    // bench_step.cpp
void add_bench_decode(CLI::App& bench, Program& program);  // bench_decode.cpp

}  // namespace smoe::cli
