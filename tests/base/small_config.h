// A configuration with a field of every type, for tests of their readers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "smoe/base/config.h"

namespace smoe {

struct SmallModelConfig {
  int64_t layers = 4;
  std::string kind = "moe";
  LayerSelection moe_layers = {true, {}};
  std::vector<int64_t> widths = {1, 2};

  void describe(Fields& fields) {
    fields.add("layers", &layers, "how many", at_least(1));
    fields.add("kind", &kind, "dense | moe", one_of({"dense", "moe"}));
    fields.add("moe_layers", &moe_layers, "which");
    fields.add("widths", &widths, "of each", at_least(1));
  }
};

struct SmallConfig {
  int64_t seed = 1;
  SmallModelConfig model;
  double rate = 2.5e-4;
  double dropout = 0.0;
  bool shuffle = true;
  std::string path = "data";

  void describe(Fields& fields) {
    fields.add("seed", &seed, "of all draws");
    fields.table("model", model);
    fields.add("train.rate", &rate, "at the peak", above(0));
    fields.add("train.dropout", &dropout, "share", between(0, 1));
    fields.add("train.shuffle", &shuffle, "order");
    fields.add("path", &path, "of the data");
  }
};

}  // namespace smoe
