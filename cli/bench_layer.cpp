// smoe bench layer: the time of a mixture, forward and with backward.
#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

#include "bench/layer.h"
#include "cli/bench.h"
#include "smoe/base/error.h"

namespace smoe::cli {
namespace {

constexpr const char* kLayerExample = "E16,D256,H512,T2048,K8";

struct LayerBench {
  LayerArguments layer;
  std::string routing = "balanced", k;
  BenchOptions options;
};

/// Every shape, at every k of --k where there is one.
std::vector<bench::LayerShape> shapes_of(const LayerBench& arguments) {
  std::vector<bench::LayerShape> shapes;
  for (const std::string& text : arguments.layer.shapes) {
    bench::LayerShape shape = bench::parse_shape(text, arguments.k.empty() ? "EDHTK" : "EDHT", "EDHTK", kLayerExample);
    if (arguments.k.empty()) {
      shapes.push_back(shape);
    } else {
      require(shape.K == 0, "--shape: '", text, "' says K, and so does --k; leave one of them out");
      for (const int64_t k : parse_numbers("--k", arguments.k)) {
        require(k >= 1, "--k must be 1 or more, got ", k);
        shape.K = k;
        shapes.push_back(shape);
      }
    }
  }
  for (const bench::LayerShape& shape : shapes) shape.check();
  return shapes;
}

void print_layers(const std::vector<nlohmann::ordered_json>& results) {
  const nlohmann::ordered_json& first = results[0];
  std::printf("%s, %s, routing %s, kernel %s, %s\n", first["dtype"].get<std::string>().c_str(),
              first["activation"].get<std::string>().c_str(), first["routing"].get<std::string>().c_str(),
              first["kernel"].get<std::string>().c_str(), machine_text(first).c_str());
  std::printf("%-26s %11s %9s %6s %11s %9s %6s %9s %9s\n", "", "forward ms", "GFLOP/s", "share", "fwd+bwd ms",
              "GFLOP/s", "share", "peak", "kept MiB");
  const auto share = [](const nlohmann::ordered_json& value) {
    return value.is_null() ? std::string("-") : std::to_string(value.get<double>()).substr(0, 5);
  };
  for (const nlohmann::ordered_json& r : results) {
    std::printf("%-26s %11.3f %9.1f %6s %11.3f %9.1f %6s %9.1f %9.2f\n", r["shape"].get<std::string>().c_str(),
                r["forward_ms"].get<double>(), r["forward_gflops"].get<double>(), share(r["forward_share"]).c_str(),
                r["forward_backward_ms"].get<double>(), r["forward_backward_gflops"].get<double>(),
                share(r["forward_backward_share"]).c_str(),
                r["peak_gflops"].is_null() ? 0.0 : r["peak_gflops"].get<double>(),
                r["activation_bytes"].get<double>() / (1 << 20));
  }
}

int bench_layer(const LayerBench& arguments) {
  arguments.options.apply();
  choose_kernel(arguments.layer.kernel);
  const bench::LayerOptions options{.type = bench::parse_dtype(arguments.layer.dtype),
                                    .activation = parse_activation(arguments.layer.activation),
                                    .spread = bench::parse_spread(arguments.routing),
                                    .repeat = arguments.options.repeat,
                                    .device = arguments.options.device()};
  const std::vector<bench::LayerShape> shapes = shapes_of(arguments);
  std::vector<nlohmann::ordered_json> results;
  for (const bench::LayerShape& shape : shapes) results.push_back(bench::measure_layer(shape, options));
  if (arguments.options.json) {
    print_json(results);
  } else {
    print_layers(results);
  }
  return 0;
}

}  // namespace

void add_bench_layer(CLI::App& bench, Program& program) {
  CLI::App* part = add_verb(bench, "layer",
                            "time a mixture of experts, forward and backward, beside the peak of the processor or GPU",
                            concat("smoe bench layer --shape ", kLayerExample,
                                   " --dtype bf16 --threads 1\n"
                                   "  smoe bench layer --shape E16,D256,H512,T2048 --k 1,2,4,8,16 --json"));
  const auto arguments = std::make_shared<LayerBench>();
  arguments->layer.add_to(*part, concat(kLayerExample, "; may stand more than once"));
  part->add_option("--k", arguments->k, "measure each shape at these K: numbers with commas between them")
      ->type_name("LIST");
  part->add_option(
          "--routing", arguments->routing,
          "balanced: each expert as many tokens as any other; uniform: drawn; skewed: all to as few as K allows")
      ->capture_default_str()
      ->type_name("NAME");
  arguments->options.add_to(*part, "rounds, of which the median is reported");
  add_device_option(*part, arguments->options);
  part->callback([&program, arguments] { program.work = [arguments] { return bench_layer(*arguments); }; });
}

}  // namespace smoe::cli
