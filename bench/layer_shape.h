// The size of a mixture, as the command line says it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace smoe::bench {

/// E experts of width H over a model of width D; T tokens, each to K experts.
struct LayerShape {
  int64_t E = 0, D = 0, H = 0, T = 0, K = 0;

  /// "E16,D256,H512,T2048,K8".
  std::string text() const;
  /// Throws UserError where a token would take an expert twice.
  void check() const;
};

/// Reads "E16,D256,H512,T2048,K8", in any order. Each letter of `needed` must be there, none that is not in `known`;
/// throws UserError that says which and shows `example`.
LayerShape parse_shape(const std::string& text, std::string_view needed, std::string_view known,
                       const std::string& example);

}  // namespace smoe::bench
