#include "tests/train/tiny_run.h"

#include <torch/types.h>

#include "smoe/base/file.h"
#include "smoe/base/philox.h"
#include "smoe/train/trainer.h"

namespace smoe::testing {

std::string tiny_text(size_t bytes) {
  const std::string words[] = {"the ", "expert ", "takes ", "a ", "token ", "and ", "gives ", "one ", "back.\n"};
  std::string text;
  for (uint64_t i = 0; text.size() < bytes; ++i) text += words[philox(1, i, 0)[0] % std::size(words)];
  text.resize(bytes);
  return text;
}

Recipe tiny_recipe(const std::filesystem::path& folder) {
  const std::filesystem::path text = folder / "text.txt";
  write_file_atomic(text, tiny_text(8000));
  Recipe recipe;
  recipe.model = {.layers = 2, .width = 16, .heads = 2, .head_width = 8, .ffn_width = 64};
  recipe.moe.experts = 4;
  recipe.moe.expert_width = 16;
  recipe.k_schedule = {.kind = "linear", .min = 1, .max = 4};
  recipe.data.path = text.string();
  recipe.train = {.batch = 2,
                  .segment = 16,
                  .memory = 16,
                  .steps = 12,
                  .log_every = 3,
                  .eval_every = 6,
                  .eval_batch = 2,
                  .eval_segment = 16,
                  .checkpoint_every = 5,
                  .seed = 3,
                  .threads = 2};
  recipe.optimizer.lr = 1e-3;
  return recipe;
}

at::Tensor output(LanguageModel& model, int64_t k) {
  const torch::NoGradGuard no_grad;
  Memory memory = model.empty_memory(2);
  return model.forward(torch::arange(14).view({2, 7}), memory, {.k = k});
}

TensorMap last_tensors(const std::filesystem::path& run, const std::string& file) {
  const NamedTensors tensors = load_tensors(resolve_model(run, CheckpointRole::kLast) / file);
  return {tensors.begin(), tensors.end()};
}

}  // namespace smoe::testing
