#include "smoe/train/trace_routing.h"

#include <gtest/gtest.h>

#include <functional>

#include "smoe/moe/moe_layer.h"
#include "smoe/plan/trace_file.h"
#include "tests/base/temp_folder.h"
#include "tests/models/fixture_model.h"

namespace smoe {
namespace {

constexpr EvalLengths kLengths{.batch = 2, .segment = 5, .memory = 4, .tokens = 0};

/// The fixture's model with capacity, as it were read from a folder, and a text of its seven ids.
struct Traced {
  explicit Traced(const std::function<void(ModelSpec&)>& change = [](ModelSpec&) {}) {
    ModelSpec spec = testing::fixture_spec(false);
    spec.moe.capacity_factor = 1;
    change(spec);
    loaded.model = make_model(spec, RandomStream(3));
    loaded.vocabulary = ByteVocabulary::bytes();
    loaded.folder = "model";
    for (int i = 0; i < 47; ++i) bytes += static_cast<char>(i * i % 7);
  }
  TokenSequence text() const { return {as_bytes(bytes), loaded.vocabulary, "text"}; }
  RoutingTrace trace(std::optional<double> dial) const { return trace_routing(loaded, text(), kLengths, dial, "text"); }

  LoadedModel loaded;
  std::string bytes;
};

TEST(TraceRouting, HasWhatTheStatisticsHave) {
  for (const std::string router : {"random_frozen", "learned"}) {
    const Traced traced([&](ModelSpec& spec) { spec.moe.router = router; });
    const RoutingTrace trace = traced.trace(2);
    check_trace(trace, "trace");
    EXPECT_EQ(trace.model, "model");
    EXPECT_EQ(trace.setting, "k = 2");
    StatsBook book(StatsBook::Detail::kCounts);
    const EvalResult result = evaluate(*traced.loaded.model, traced.text(), kLengths, 2, "text", &book);
    EXPECT_EQ(trace.tokens(), result.tokens);
    const std::vector<LayerStats> layers = book.layers();
    ASSERT_EQ(trace.layers.size(), layers.size());
    int64_t dropped_at_all = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      const TraceLayer& layer = trace.layers[i];
      std::vector<double> count(4, 0.0), dropped(4, 0.0);
      for (size_t slot = 0; slot < layer.expert.size(); ++slot) {
        if (layer.expert[slot] < 0) continue;
        ++count[static_cast<size_t>(layer.expert[slot])];
        dropped[static_cast<size_t>(layer.expert[slot])] += layer.kept[slot] == 0 ? 1 : 0;
        dropped_at_all += layer.kept[slot] == 0 ? 1 : 0;
      }
      EXPECT_TRUE(torch::equal(torch::tensor(count, torch::kFloat64), layers[i].count));
      EXPECT_TRUE(torch::equal(torch::tensor(dropped, torch::kFloat64), layers[i].dropped));
    }
    EXPECT_GT(dropped_at_all, 0);
  }
}

TEST(TraceRouting, TokensAreThoseOfTheText) {
  const Traced traced;
  const RoutingTrace trace = traced.trace(1);
  const int64_t segment = 5;
  const int64_t row = 47 / 2;  // two streams of 23 tokens, 22 of which are read from
  ASSERT_EQ(trace.tokens(), 2 * (row - 1));
  for (size_t i = 0; i < trace.token.size(); ++i) {
    const int64_t place = trace.sequence[i] * row + segment * trace.call[i] + trace.position[i];
    EXPECT_EQ(trace.token[i], traced.bytes[static_cast<size_t>(place)]) << i;
  }
  EXPECT_EQ(trace.call.back(), 4);  // 5 + 5 + 5 + 5 + 2
  EXPECT_EQ(trace.position.back(), 1);
}

TEST(TraceRouting, SimilarityIsTheMeanCosineOfTheOutputs) {
  const torch::NoGradGuard no_grad;
  const Traced traced;
  const RoutingTrace trace = traced.trace(1);
  std::vector<at::Tensor> x;  // of the first forward, by layer
  StatsBook book(StatsBook::Detail::kCounts);
  book.observe([&x](const LayerView& view) {
    if (static_cast<size_t>(view.layer) == x.size()) x.push_back(view.input.x);
  });
  evaluate(*traced.loaded.model, traced.text(), kLengths, 1, "text", &book);
  ASSERT_EQ(x.size(), trace.layers.size());
  for (size_t layer = 0; layer < x.size(); ++layer) {
    Experts& experts = traced.loaded.model->mixtures()[layer]->experts();
    ASSERT_EQ(trace.layers[layer].similarity.size(), 16u);
    for (int a = 0; a < 4; ++a) {
      for (int b = 0; b < 4; ++b) {
        double sum = 0;
        for (int64_t t = 0; t < x[layer].size(0); ++t) {
          const auto output = [&](int expert) {
            Routing routing;
            routing.expert = torch::full({1, 1}, expert, torch::kInt32);
            routing.weight = torch::ones({1, 1}, x[layer].options());
            return experts.mix(x[layer].narrow(0, t, 1), routing, {})[0];
          };
          const at::Tensor u = output(a), v = output(b);
          sum += (u.dot(v) / (u.norm() * v.norm())).item<double>();
        }
        EXPECT_NEAR(trace.layers[layer].similarity[static_cast<size_t>(4 * a + b)],
                    sum / static_cast<double>(x[layer].size(0)), 1e-5);
      }
    }
  }
}

TEST(TraceRouting, ExpertsThatAreNoNetworksAreMarked) {
  const Traced traced([](ModelSpec& spec) {
    spec.moe.router = "adamoe";
    spec.moe.null_experts = 2;
    spec.moe.experts = 6;
  });
  const RoutingTrace trace = traced.trace(std::nullopt);
  check_trace(trace, "trace");
  for (const TraceLayer& layer : trace.layers) {
    EXPECT_EQ(layer.network, (std::vector<uint8_t>{1, 1, 1, 1, 0, 0}));
    EXPECT_EQ(layer.similarity.size(), 16u);
  }
}

TEST(TraceRouting, ADenseModelHasNone) {
  Traced traced;
  traced.loaded.model = make_model(testing::fixture_spec(true), RandomStream(3));
  EXPECT_NE(message_of([&] { traced.trace(std::nullopt); }).find("model: is a dense model"), std::string::npos);
}

}  // namespace
}  // namespace smoe
