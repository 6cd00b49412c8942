// The unigram plateau: a model that has learned how often each byte occurs and nothing of what it reads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "smoe/data/corpus.h"

namespace smoe {

/// Entropy in bits per token of the frequencies of token ids (of the first 16 M): what a model reaches that ignores its
/// input.
double unigram_bits(const TokenSequence& text);

/// Watches the training loss and says once that a run is stuck on the plateau.
class PlateauWatch {
 public:
  /// Looks from step `first_check` on: past warm-up, when a healthy run has left the plateau behind.
  PlateauWatch(double unigram_bits, int64_t first_check) : unigram_bits_(unigram_bits), first_check_(first_check) {}

  /// Takes the bits per token of a step; the text of the warning at the step that deserves it, once.
  std::optional<std::string> observe(int64_t step, double bits);

 private:
  static constexpr double kSmoothing = 0.02;  // of the running mean: about 50 steps
  static constexpr double kNear = 0.97;       // of the entropy; a model that reads its input falls well below

  double unigram_bits_;
  int64_t first_check_;
  double mean_ = 0, weight_ = 0;
  bool warned_ = false;
};

/// The step from which a run of `steps` with that warm-up is watched.
int64_t plateau_first_check(int64_t steps, int64_t warmup);

}  // namespace smoe
