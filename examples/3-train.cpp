// Step 3: a model. A recipe says what a run is; a Trainer makes it; evaluate() and generate() use what came out.
//
// New here: the folder of a run, training with a k that grows, and one set of weights evaluated at every k.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "smoe/smoe.h"

namespace {

/// A text to learn: counting in words, again and again.
std::string counting_text() {
  const std::vector<std::string> words = {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine"};
  std::string text;
  for (int round = 0; round < 40; ++round) {
    for (const std::string& word : words) text += word + " ";
  }
  return text;
}

/// A model of 2 layers with 4 experts each, small enough to learn in seconds. What is not set has its default, the same
/// as in a recipe file; `smoe settings` lists all of it.
smoe::Recipe small_recipe() {
  smoe::Recipe recipe;
  recipe.model.layers = 2;
  recipe.model.width = 32;
  recipe.model.heads = 2;
  recipe.model.head_width = 16;
  recipe.model.dropout = 0;
  recipe.moe.experts = 4;
  recipe.moe.expert_width = 64;
  recipe.k_schedule.min = 1;  // one expert a token at the start, all four at the end
  recipe.k_schedule.max = 4;
  recipe.train.batch = 4;
  recipe.train.segment = 32;
  recipe.train.memory = 64;     // more than a round of the text, which has 45 characters
  recipe.train.eval_batch = 1;  // the text is short: read it as one stream
  recipe.train.eval_segment = 32;
  recipe.train.threads = 1;  // more are no help to so small a model
  recipe.train.steps = 400;
  recipe.train.eval_every = 100;
  recipe.train.checkpoint_every = 100;
  recipe.optimizer.lr = 5e-3;
  return recipe;
}

}  // namespace

int main() {
  std::string name = std::filesystem::temp_directory_path() / "smoe-example-XXXXXX";
  const std::filesystem::path folder = ::mkdtemp(name.data());
  smoe::write_file_atomic(folder / "text.txt", counting_text());

  // Train. The run's folder gets checkpoints and metrics.jsonl; a run that is cut off goes on from its last checkpoint.
  smoe::Recipe recipe = small_recipe();
  recipe.data.path = (folder / "text.txt").string();
  const auto trainer = smoe::start_training(recipe, folder / "run");
  const std::atomic<int> never = 0;  // set it from a signal handler to stop after the step that is being made
  trainer->run(never, stderr);
  std::printf("trained %lld steps\n", static_cast<long long>(trainer->step()));

  // Load what was saved, the way smoe eval and smoe generate do, and read the last 5 % of the text.
  smoe::LoadedModel loaded = smoe::load_model(smoe::resolve_model(folder / "run", smoe::CheckpointRole::kBestFull));
  const smoe::CorpusFiles files(recipe.data.path);
  const smoe::TokenSequence text(files.bytes(smoe::Split::kTest), loaded.vocabulary, "the test text");
  for (int64_t k = 1; k <= recipe.moe.experts; ++k) {
    const smoe::EvalResult result =
        smoe::evaluate(*loaded.model, text, smoe::eval_lengths(recipe.train), k, "the test text");
    std::printf("k = %lld: %.4f bits per character, %.0f active parameters\n", static_cast<long long>(k), result.bpc,
                result.active_parameters);
  }

  // Go on with a text, byte by byte, each the likeliest.
  const std::string prompt = "one two three four five six seven eight nine one two ";
  const std::vector<uint8_t> ids = loaded.vocabulary.encode(smoe::as_bytes(prompt), "the prompt");
  smoe::GenerateOptions options;
  options.k = recipe.moe.experts;
  options.tokens = 32;
  options.memory = recipe.train.memory;
  options.sampling.temperature = 0;
  std::printf("%s", prompt.c_str());
  smoe::generate(*loaded.model, {ids.begin(), ids.end()}, options, [&](int64_t token) {
    std::putchar(loaded.vocabulary.byte(token));
    return true;
  });
  std::printf("\n");
  std::filesystem::remove_all(folder);
}
