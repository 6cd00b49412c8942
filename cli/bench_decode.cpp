// smoe bench decode: calls of a few tokens, which cost what reading the weights costs.
#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

#include "bench/decode.h"
#include "cli/bench.h"
#include "smoe/base/error.h"

namespace smoe::cli {
namespace {

constexpr const char* kDecodeExample = "E16,D256,H512,K2";

struct DecodeBench {
  LayerArguments layer;
  std::string tokens = "1,2,4,8,16,32";
  BenchOptions options;
};

void print_decode(const std::vector<nlohmann::ordered_json>& results) {
  const nlohmann::ordered_json& first = results[0];
  std::printf("%s, %s, kernel %s, %s\n", first["dtype"].get<std::string>().c_str(),
              first["activation"].get<std::string>().c_str(), first["kernel"].get<std::string>().c_str(),
              machine_text(first).c_str());
  std::printf("%-22s %10s %8s %10s %8s %11s %6s\n", "", "call ms", "experts", "MiB read", "GB/s", "limit GB/s",
              "share");
  for (const nlohmann::ordered_json& r : results) {
    std::printf("%-22s %10.4f %8.2f %10.2f %8.1f %11.1f %6.2f\n", r["shape"].get<std::string>().c_str(),
                r["call_ms"].get<double>(), r["experts_read"].get<double>(),
                r["weight_bytes"].get<double>() / (1 << 20), r["gb_per_second"].get<double>(),
                r["read_gb_per_second"].get<double>(), r["share"].get<double>());
  }
}

int bench_decode(const DecodeBench& arguments) {
  arguments.options.apply();
  choose_kernel(arguments.layer.kernel);
  const bench::LayerOptions options{.type = bench::parse_dtype(arguments.layer.dtype),
                                    .activation = parse_activation(arguments.layer.activation),
                                    .spread = bench::Spread::kUniform,
                                    .repeat = arguments.options.repeat};
  std::vector<bench::LayerShape> shapes;
  for (const std::string& text : arguments.layer.shapes) {
    bench::LayerShape shape = bench::parse_shape(text, "EDHK", "EDHK", kDecodeExample);
    shape.check();
    for (const int64_t tokens : parse_numbers("--tokens", arguments.tokens)) {
      require(tokens >= 1 && tokens <= 4096, "--tokens must be between 1 and 4096, got ", tokens);
      shape.T = tokens;
      shapes.push_back(shape);
    }
  }
  std::vector<nlohmann::ordered_json> results;
  for (const bench::LayerShape& shape : shapes) results.push_back(bench::measure_decode(shape, options));
  if (arguments.options.json) {
    print_json(results);
  } else {
    print_decode(results);
  }
  return 0;
}

}  // namespace

void add_bench_decode(CLI::App& bench, Program& program) {
  CLI::App* part =
      add_verb(bench, "decode", "time calls of a few tokens beside reading the weights that they need",
               concat("smoe bench decode --shape ", kDecodeExample, " --tokens 1,2,4,8,16,32 --dtype bf16"));
  const auto arguments = std::make_shared<DecodeBench>();
  arguments->layer.add_to(*part, concat(kDecodeExample, "; may stand more than once; --tokens says T"));
  part->add_option("--tokens", arguments->tokens, "tokens of a call: numbers with commas between them")
      ->capture_default_str()
      ->type_name("LIST");
  arguments->options.add_to(*part, "rounds of some calls each, of all of which the median is reported");
  part->callback([&program, arguments] { program.work = [arguments] { return bench_decode(*arguments); }; });
}

}  // namespace smoe::cli
