// What drops the hidden units of dense feed-forward blocks in training, beside plain dropout.
#pragma once

#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "smoe/moe/routing.h"
#include "smoe/tensor/random_stream.h"

namespace smoe {

struct ModelConfig;

class HiddenDropout : public torch::nn::Module {
 public:
  /// hidden [T, F], what an activation gave, with units dropped; asked in training alone. A mask is a function of `random`.
  virtual at::Tensor drop(const at::Tensor& hidden, const RandomStream& random) const = 0;
  /// Whether plain dropout goes on beside it, or is replaced.
  virtual bool is_beside_plain() const = 0;
  /// What it adds to the objective, by name; `w2` [D, F] is the matrix that its output goes into.
  virtual std::map<std::string, Term> terms(const at::Tensor& w2) const;
  /// Whether there are any terms.
  virtual bool has_terms() const { return false; }
};

/// A kind as the table of kinds lists it.
struct HiddenDropoutKind {
  std::string name;
  std::string summary;
  std::string paper;
  /// For blocks of `hidden` units; null where it is plain dropout.
  std::shared_ptr<HiddenDropout> (*make)(const ModelConfig&, int64_t hidden, const RandomStream& random);
};

const std::vector<HiddenDropoutKind>& hidden_dropout_kinds();

/// The kind that the settings name, for blocks of `hidden` units; null for plain dropout.
std::shared_ptr<HiddenDropout> make_hidden_dropout(const ModelConfig& config, int64_t hidden,
                                                   const RandomStream& random);

}  // namespace smoe
