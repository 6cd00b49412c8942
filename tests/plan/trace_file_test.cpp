#include "smoe/plan/trace_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "smoe/base/file.h"
#include "tests/base/temp_folder.h"
#include "tests/study/small_trace.h"

namespace smoe {
namespace {

using testing::small_trace;
using testing::trace_layer;

RoutingTrace two_layers() {
  RoutingTrace trace = small_trace({0, 3, 1}, {trace_layer(1, 3, 2, {0, 2, -1, 1, 2, -1}), trace_layer(10, 2, 0, {})});
  trace.layers[0].network = {1, 0, 1};
  trace.layers[0].kept[1] = 0;
  trace.layers[0].similarity = {1, -0.25F, -0.25F, 1};
  return trace;
}

TEST(TraceFile, ComesBackAsItWas) {
  const TempFolder folder;
  const RoutingTrace trace = two_layers();
  write_trace(folder / "trace", trace);
  const RoutingTrace read = read_trace(folder / "trace");
  EXPECT_EQ(read.model, trace.model);
  EXPECT_EQ(read.setting, trace.setting);
  EXPECT_EQ(read.step, trace.step);
  EXPECT_EQ(read.token, trace.token);
  EXPECT_EQ(read.call, trace.call);
  EXPECT_EQ(read.sequence, trace.sequence);
  EXPECT_EQ(read.position, trace.position);
  EXPECT_EQ(read.byte, trace.byte);
  ASSERT_EQ(read.layers.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const TraceLayer &a = read.layers[i], &b = trace.layers[i];
    EXPECT_EQ(a.layer, b.layer);
    EXPECT_EQ(a.slots, b.slots);
    EXPECT_EQ(a.expert, b.expert);
    EXPECT_EQ(a.kept, b.kept);
    EXPECT_EQ(a.network, b.network);
    EXPECT_EQ(a.similarity, b.similarity);
  }
  write_trace(folder / "again", read);
  EXPECT_EQ(read_file(folder / "again"), read_file(folder / "trace"));
}

TEST(TraceFile, PartsMustFit) {
  const TempFolder folder;
  const auto fault = [&](const std::function<void(RoutingTrace&)>& spoil) {
    RoutingTrace trace = two_layers();
    spoil(trace);
    return message_of([&] { write_trace(folder / "trace", trace); });
  };
  const auto says = [&](const char* words, const std::function<void(RoutingTrace&)>& spoil) {
    const std::string message = fault(spoil);
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_FALSE(std::filesystem::exists(folder / "trace"));
  };
  says("has no tokens", [](RoutingTrace& t) { t.token.clear(); });
  says("has no layer", [](RoutingTrace& t) { t.layers.clear(); });
  says("not of one length", [](RoutingTrace& t) { t.position.pop_back(); });
  says("token 1 has id 4, which is outside 0 to 3", [](RoutingTrace& t) { t.token[1] = 4; });
  says("token 1 has id -1", [](RoutingTrace& t) { t.token[1] = -1; });
  says("below 0", [](RoutingTrace& t) { t.position[2] = -1; });
  says("token 2 comes after a later call", [](RoutingTrace& t) { t.call = {0, 1, 0}; });
  says("do not rise", [](RoutingTrace& t) { t.layers[1].layer = 1; });
  says("layer 1: token 0 has expert 3, which is outside -1 to 2", [](RoutingTrace& t) { t.layers[0].expert[1] = 3; });
  says("layer 1: token 0 has expert 0 twice", [](RoutingTrace& t) { t.layers[0].expert[1] = 0; });
  says("keeps what is no expert", [](RoutingTrace& t) { t.layers[0].kept[2] = 1; });
  says("keeps what is no expert", [](RoutingTrace& t) { t.layers[0].kept[0] = 2; });
  says("has 4 slots a token for 3 experts", [](RoutingTrace& t) { t.layers[0].slots = 4; });
  says("is not of 3 tokens with 1 slots", [](RoutingTrace& t) { t.layers[0].slots = 1; });
  says("has 0 experts", [](RoutingTrace& t) { t.layers[1].network.clear(); });
  says("has 1025 experts", [](RoutingTrace& t) { t.layers[1].network.resize(1025); });
  says("must be 0 or 1", [](RoutingTrace& t) { t.layers[0].network[1] = 7; });
  says("is not of its 3 networks", [](RoutingTrace& t) { t.layers[0].network[1] = 1; });
  says("between -1 and 1", [](RoutingTrace& t) { t.layers[0].similarity[0] = std::nanf(""); });
  says("between -1 and 1", [](RoutingTrace& t) { t.layers[0].similarity[1] = 2; });
  says("1 to 256", [](RoutingTrace& t) { t.byte.clear(); });
  says("step", [](RoutingTrace& t) { t.step = -1; });
}

}  // namespace
}  // namespace smoe
