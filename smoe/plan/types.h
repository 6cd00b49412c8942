// What plans and studies are made of: plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace smoe {

/// What one mixture did with the T tokens of a trace.
struct TraceLayer {
  int64_t layer = 0;              ///< its place in the model, from 0
  int64_t slots = 0;              ///< K, the most experts that a token took
  std::vector<int32_t> expert;    ///< [T, K] the router's answer, before limit; −1 is an empty slot, ids are distinct
  std::vector<uint8_t> kept;      ///< [T, K] 1 where an expert was computed, 0 where limit dropped it or none was there
  std::vector<uint8_t> network;   ///< [E] 1 where the expert is a network
  std::vector<float> similarity;  ///< [n, n] of the n networks' outputs, mean cosine over tokens; empty: not measured

  int64_t experts() const { return static_cast<int64_t>(network.size()); }
};

/// Who took which token: the record of a model's routing over a text.
struct RoutingTrace {
  std::string model;               ///< where it was gathered
  std::string setting;             ///< of the dial, "k = 2"; empty: what the router's settings say
  int64_t step = 0;                ///< the model's
  std::vector<int32_t> token;      ///< [T] ids, in the order in which the layers saw them
  std::vector<int32_t> call;       ///< [T] the forward that a token was in, from 0, never falling
  std::vector<int32_t> sequence;   ///< [T] its row in that forward
  std::vector<int32_t> position;   ///< [T] its place in the row
  std::vector<uint8_t> byte;       ///< [V] what each id stands for
  std::vector<TraceLayer> layers;  ///< ascending

  int64_t tokens() const { return static_cast<int64_t>(token.size()); }
};

}  // namespace smoe
