// The tiny fp64 model and text of the published numbers (tests/golden/README.md).
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "smoe/models/transformer_xl.h"

namespace smoe::testing {

/// V 7, L 2, N 2, D 8, P 3, H 5, E 4, no dropout; dense networks of width 5 instead of mixtures where asked.
ModelSpec fixture_spec(bool dense);

/// The parameters in the fixture's order 0, 1, 2, …
std::vector<std::string> fixture_order(bool dense);

/// The model with parameter p, element n set to 0.3·sin(0.7 n + 1.3 p + 0.5), plus 1 for gains; fp64.
std::shared_ptr<TransformerXl> fixture_model(bool dense);

/// Ten tokens of two sequences, int64 [2, 10].
at::Tensor fixture_tokens();

/// Mean NLL of the segments of three tokens, memory 4.
std::vector<double> fixture_nll(LanguageModel& model, int64_t k);

/// The parameter of that name.
at::Tensor parameter(torch::nn::Module& module, const std::string& name);

/// The L2 norm of all gradients of `module`.
double gradient_norm(const torch::nn::Module& module);

}  // namespace smoe::testing
