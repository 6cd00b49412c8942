// smoe generate: text from a model, as it is made.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>

#include "cli/verbs.h"
#include "smoe/base/error.h"
#include "smoe/models/model_folder.h"
#include "smoe/models/sampler.h"

namespace smoe::cli {
namespace {

struct GenerateArguments {
  std::string model, prompt;
  std::optional<int64_t> k;
  std::optional<double> dial;
  uint64_t seed = 0;
  GenerateOptions generate;
  ComputeOptions compute;
};

/// Writes a byte of text. A terminal gets no control characters, which a model may make and which may do anything.
void put(uint8_t byte, bool terminal) {
  const bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F;
  if (terminal && control) {
    std::fputs("\xEF\xBF\xBD", stdout);  // U+FFFD
  } else {
    std::putchar(byte);
  }
}

int generate_text(const GenerateArguments& arguments) {
  arguments.compute.apply();
  LoadedModel loaded = load_model(resolve_model(arguments.model, CheckpointRole::kBestFull));
  const int64_t experts = loaded.model->spec().moe.experts;
  check_dial_options(*loaded.model, arguments.model, arguments.k.has_value(), arguments.dial.has_value());
  GenerateOptions options = arguments.generate;
  options.k = arguments.k.value_or(loaded.default_k > 0 ? loaded.default_k : experts);
  require(options.k >= 1 && options.k <= experts, "--k: ", options.k, " is outside 1 to ", experts,
          ", the model's number of experts");
  options.dial = arguments.dial;
  options.memory = loaded.lengths.memory;
  options.sampling.seed = arguments.seed;
  if (!arguments.compute.device.empty()) loaded.model->to(at::Device(arguments.compute.device));

  // Checked here too, before the prompt is printed.
  options.sampling.check();
  require(options.tokens >= 0, "--tokens must be 0 or more, got ", options.tokens);
  const std::vector<uint8_t> ids = loaded.vocabulary.encode(as_bytes(arguments.prompt), "--prompt");
  require(!ids.empty(), "--prompt is empty; a model goes on from at least one byte");
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  for (const char c : arguments.prompt) put(static_cast<uint8_t>(c), terminal);
  std::fflush(stdout);
  generate(*loaded.model, {ids.begin(), ids.end()}, options, [&](int64_t token) {
    put(loaded.vocabulary.byte(token), terminal);
    return std::fflush(stdout) == 0;  // nobody reads any more: stop
  });
  std::putchar('\n');
  return 0;
}

}  // namespace

void add_generate(Program& program) {
  CLI::App* verb = add_verb(program, "generate", "go on with a text",
                            "smoe generate runs/first --prompt \"The \" --k 4 --tokens 300 --temperature 0.8");
  const auto arguments = std::make_shared<GenerateArguments>();
  GenerateOptions& options = arguments->generate;
  verb->add_option("model", arguments->model, "a run (its best checkpoint at k = E) or a checkpoint")
      ->type_name("MODEL")
      ->required();
  verb->add_option("--prompt", arguments->prompt, "the text to go on from")->type_name("TEXT")->required();
  verb->add_option("--k", arguments->k, "active experts; default the model's own, or all")->type_name("K");
  verb->add_option("--dial", arguments->dial, "value of the model's dial where that is not k; default: its setting")
      ->type_name("F");
  verb->add_option("--tokens", options.tokens, "how many bytes to make")->capture_default_str()->type_name("N");
  verb->add_option("--temperature", options.sampling.temperature, "0: the likeliest byte; higher: wilder")
      ->capture_default_str()
      ->type_name("F");
  verb->add_option("--top-p", options.sampling.top_p,
                   "draw from the likeliest bytes that together have this probability")
      ->capture_default_str()
      ->type_name("F");
  verb->add_option("--seed", arguments->seed, "the same seed gives the same text")
      ->capture_default_str()
      ->type_name("N");
  arguments->compute.add_to(*verb);
  verb->callback([&program, arguments] { program.work = [arguments] { return generate_text(*arguments); }; });
}

}  // namespace smoe::cli
