#include "smoe/models/sampler.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "smoe/base/error.h"

namespace smoe {

void SamplingOptions::check() const {
  require(temperature >= 0, "temperature must be 0 or more, got ", temperature);
  require(top_p > 0 && top_p <= 1, "top-p must be above 0 and at most 1, got ", top_p);
}

int64_t sample_token(const at::Tensor& logits, const SamplingOptions& options, double uniform) {
  if (options.temperature == 0) return logits.argmax().item<int64_t>();
  const at::Tensor p = at::softmax(logits.to(at::kCPU, at::kDouble) / options.temperature, -1);
  const auto [sorted, token] = at::sort(p, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const double* probability = sorted.const_data_ptr<double>();
  int64_t kept = 0;
  double total = 0;
  do {
    total += probability[kept++];
  } while (kept < sorted.numel() && total < options.top_p);
  double left = uniform * total;
  int64_t chosen = 0;
  while (chosen + 1 < kept && left >= probability[chosen]) left -= probability[chosen++];
  return token[chosen].item<int64_t>();
}

void generate(LanguageModel& model, const std::vector<int64_t>& prompt, const GenerateOptions& options,
              const std::function<bool(int64_t token)>& emit) {
  require(!prompt.empty(), "the prompt is empty; a model predicts from at least one token");
  require(options.tokens >= 0 && options.prompt_chunk >= 1, "cannot generate ", options.tokens, " tokens in chunks of ",
          options.prompt_chunk);
  options.sampling.check();
  const at::NoGradGuard no_grad;
  const at::Device device = model.parameters()[0].device();
  const RandomStream random(options.sampling.seed);
  Memory memory = model.empty_memory(1, MemoryOf::kKeysAndValues);
  Pass pass{.k = options.k, .dial = options.dial, .memory_length = options.memory, .fixed_window = true};
  uint64_t reads = 0;
  const auto read = [&](const std::vector<int64_t>& tokens) {
    pass.random = random.at("routing").at(reads++);
    const at::Tensor logits = model.forward(at::tensor(tokens, at::kLong).unsqueeze(0).to(device), memory, pass);
    return logits[0][-1];
  };

  at::Tensor logits;
  for (size_t first = 0; first < prompt.size(); first += static_cast<size_t>(options.prompt_chunk)) {
    const size_t end = std::min(prompt.size(), first + static_cast<size_t>(options.prompt_chunk));
    logits =
        read({prompt.begin() + static_cast<std::ptrdiff_t>(first), prompt.begin() + static_cast<std::ptrdiff_t>(end)});
  }
  for (int64_t n = 0; n < options.tokens; ++n) {
    const int64_t token = sample_token(logits, options.sampling, random.uniform(static_cast<uint64_t>(n)));
    if (!emit(token)) return;
    if (n + 1 < options.tokens) logits = read({token});
  }
}

}  // namespace smoe
