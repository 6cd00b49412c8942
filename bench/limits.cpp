#include "bench/limits.h"

#include <ATen/Parallel.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include <nlohmann/json.hpp>

#include "bench/machine.h"
#include "bench/read_sum.h"
#include "bench/samples_json.h"
#include "smoe/base/error.h"
#include "smoe/kernels/block_gemm.h"

namespace smoe::bench {
namespace {

constexpr double kSampleSeconds = 1e-2;

/// How often to do something that takes `seconds` for a sample to be long enough for the clock.
int64_t calls_for(double seconds) {
  return std::clamp<int64_t>(static_cast<int64_t>(kSampleSeconds / std::max(seconds, 1e-9)), 1, 100'000'000);
}

template <class T>
void multiply(const BlockShape& s, const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, int64_t thread,
              int64_t calls) {
  const T* left = a.const_data_ptr<T>() + thread * a.stride(0);
  const T* right = b.const_data_ptr<T>() + thread * b.stride(0);
  float* out = c.mutable_data_ptr<float>() + thread * c.stride(0);
  for (int64_t i = 0; i < calls; ++i) block_gemm(s.m, s.n, s.k, left, s.k, right, s.n, out, s.n, false);
  release_block_gemm(a.scalar_type());
}

/// The seconds from when all threads are awake until the last one is done with its work.
double seconds_of_all(const std::function<void(int64_t)>& work) {
  using Clock = std::chrono::steady_clock;
  const int64_t threads = at::get_num_threads();
  std::atomic<int64_t> awake = 0;
  std::vector<Clock::time_point> begins(static_cast<size_t>(threads)), ends(begins.size());
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    awake += last - first;  // more than one where the system gives fewer threads than were asked for
    while (awake.load() < threads) std::this_thread::yield();
    for (int64_t thread = first; thread < last; ++thread) {
      begins[static_cast<size_t>(thread)] = Clock::now();
      work(thread);
      ends[static_cast<size_t>(thread)] = Clock::now();
    }
  });
  const std::chrono::duration<double> all =
      *std::max_element(ends.begin(), ends.end()) - *std::min_element(begins.begin(), begins.end());
  return all.count();
}

/// Something that has a speed.
template <class Thing>
struct Measured {
  Thing thing;
  const char* name;
  Samples speed;
};

std::vector<Measured<BlockPeak>> blocks_to_measure() {
  std::vector<Measured<BlockPeak>> out;
  for (const auto& [type, name] : {std::pair(at::kFloat, "fp32"), std::pair(at::kBFloat16, "bf16")}) {
    if (!has_block_gemm(type)) continue;
    for (const BlockShape& shape : kernel_blocks()) out.push_back({BlockPeak(type, shape), name, {}});
  }
  return out;
}

/// Half of a cache, so that it holds the buffer and what else there is; of memory, four times the last cache.
std::vector<Measured<ReadSpeed>> buffers_to_measure() {
  const Caches size = caches();
  const int64_t threads = at::get_num_threads();
  std::vector<Measured<ReadSpeed>> out;
  if (size.l2 > 0) out.push_back({ReadSpeed(size.l2 / 2 * threads), "L2", {}});
  if (size.l3 > 0) out.push_back({ReadSpeed(std::max(size.l3 / 2, 2 * size.l2 * threads)), "L3", {}});
  out.push_back({ReadSpeed(std::max<int64_t>(4 * size.l3, int64_t{1} << 28)), "DRAM", {}});
  return out;
}

}  // namespace

std::string BlockShape::text() const { return concat(m, "x", n, "x", k); }

const std::vector<BlockShape>& kernel_blocks() {
  static const std::vector<BlockShape> kBlocks = {{32, 64, 256}, {64, 64, 256},  {128, 64, 256}, {128, 64, 64},
                                                  {64, 64, 128}, {32, 64, 1024}, {256, 64, 64}};
  return kBlocks;
}

void on_all_threads(const std::function<void(int64_t, int64_t)>& visit) {
  const int64_t threads = at::get_num_threads();
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) visit(thread, threads);
  });
}

BlockPeak::BlockPeak(at::ScalarType type, const BlockShape& shape) : type_(type), shape_(shape) {
  require(has_block_gemm(type), "no block microkernel for this dtype on this processor");
  const int64_t threads = at::get_num_threads();
  a_ = at::randn({threads, shape.m * shape.k}).to(type);
  b_ = at::randn({threads, shape.k * shape.n}).to(type);
  c_ = at::zeros({threads, shape.m * shape.n});
  run(1);  // makes the kernel
  calls_ = calls_for(run(8) / 8);
}

double BlockPeak::run(int64_t calls) const {
  return seconds_of_all([&](int64_t thread) {
    if (type_ == at::kBFloat16) {
      multiply<c10::BFloat16>(shape_, a_, b_, c_, thread, calls);
    } else {
      multiply<float>(shape_, a_, b_, c_, thread, calls);
    }
  });
}

double BlockPeak::sample() const {
  const double once = 2.0 * static_cast<double>(shape_.m * shape_.n * shape_.k);
  return once * static_cast<double>(calls_ * a_.size(0)) / run(calls_);
}

BlockPeak best_block(at::ScalarType type) {
  constexpr int kTries = 5;
  std::vector<BlockPeak> peaks;
  for (const BlockShape& shape : kernel_blocks()) peaks.emplace_back(type, shape);
  std::vector<Samples> speeds(peaks.size());
  for (int i = 0; i < kTries; ++i) {
    for (size_t p = 0; p < peaks.size(); ++p) speeds[p].add(peaks[p].sample());
  }
  const auto best = std::max_element(speeds.begin(), speeds.end(),
                                     [](const Samples& a, const Samples& b) { return a.median() < b.median(); });
  return peaks[static_cast<size_t>(best - speeds.begin())];
}

void read_and_keep(const void* data, int64_t bytes) {
  static std::atomic<uint64_t> seen;  // nobody looks, but the compiler cannot know
  seen.fetch_xor(read_sum(data, bytes), std::memory_order_relaxed);
}

void read_on_all_threads(const void* data, int64_t bytes) {
  on_all_threads([&](int64_t thread, int64_t threads) {
    const int64_t part = bytes / threads / kReadStep * kReadStep;
    read_and_keep(static_cast<const std::byte*>(data) + thread * part, part);
  });
}

ReadSpeed::ReadSpeed(int64_t bytes) {
  const int64_t threads = at::get_num_threads();
  const int64_t part = std::max<int64_t>(1, bytes / threads / kReadStep) * kReadStep;
  buffer_ = at::zeros({threads * part}, at::kByte);
  run(1);
  passes_ = calls_for(run(1));
}

double ReadSpeed::run(int64_t passes) const {
  const int64_t part = buffer_.numel() / at::get_num_threads();
  return seconds_of_all([&](int64_t thread) {
    for (int64_t i = 0; i < passes; ++i) read_and_keep(buffer_.const_data_ptr<uint8_t>() + thread * part, part);
  });
}

double ReadSpeed::sample() const { return static_cast<double>(buffer_.numel() * passes_) / run(passes_); }

nlohmann::ordered_json measure_limits(int64_t repeat) {
  using Json = nlohmann::ordered_json;
  std::vector<Measured<BlockPeak>> blocks = blocks_to_measure();
  std::vector<Measured<ReadSpeed>> buffers = buffers_to_measure();
  for (int64_t round = 0; round < repeat; ++round) {
    for (auto& block : blocks) block.speed.add(block.thing.sample());
    for (auto& buffer : buffers) buffer.speed.add(buffer.thing.sample());
  }
  Json json{{"threads", at::get_num_threads()},
            {"repeat", repeat},
            {"peak_gflops", {{"fp32", nullptr}, {"bf16", nullptr}}},
            {"blocks", Json::array()},
            {"read", Json::array()}};
  for (const auto& block : blocks) {
    Json line{{"dtype", block.name}, {"block", block.thing.shape().text()}};
    add_spread(line, "gflops", block.speed, 1e9);
    Json& best = json["peak_gflops"][block.name];
    if (best.is_null() || best < line["gflops"]) best = line["gflops"];
    json["blocks"].push_back(line);
  }
  for (const auto& buffer : buffers) {
    Json line{{"level", buffer.name}, {"bytes", buffer.thing.bytes()}};
    add_spread(line, "gb_per_second", buffer.speed, 1e9);
    json["read"].push_back(line);
  }
  json["machine"] = machine();
  return json;
}

}  // namespace smoe::bench
