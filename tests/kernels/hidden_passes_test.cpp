// The passes between the two products on every instruction set that this processor has, against loops over single elements.
#include "smoe/kernels/element_math.h"
#include "tests/kernels/row_passes_case.h"

namespace smoe::testing {
namespace {

template <class T>
class HiddenPassesOf : public RowPassesOf<T> {};
TYPED_TEST_SUITE(HiddenPassesOf, PassTypes);

/// A tile of the backward pass, and numbers for it.
template <class T>
struct TileCase {
  HiddenTile tile;
  std::vector<float> through;

  explicit TileCase(Draw& draw, bool pairs) {
    const int64_t rows = 8 * draw.size(1, 9), width = draw.width(160), ld = pairs ? width + width % 2 : width;
    tile = {.rows = rows, .valid = rows - draw.size(0, 7), .width = width, .ld = ld, .mask = nullptr};
    tile.ld_before = ld + 2 * draw.size(0, 40);
    through = draw.template numbers<float>(rows * width);
  }

  /// Runs a pass(level, after, before, transposed, dot, column_sum) on every level, and expects of it what after(at) and
  /// before(at) give for the elements [valid, width].
  template <class Pass, class After, class Before, class Place>
  void check(const Pass& pass, const After& after_want, const Before& before_want, const Place& place) const {
    const int64_t rows = tile.rows, width = tile.width;
    for (const RowPassesLevel& level : levels()) {
      const auto size = static_cast<size_t>(rows * tile.ld);
      std::vector<T> after(size, rounded_to<T>(5)), transposed(size, rounded_to<T>(5));
      std::vector<T> before(static_cast<size_t>(rows * tile.ld_before), rounded_to<T>(5));
      std::vector<float> dot(static_cast<size_t>(rows), 1), columns(static_cast<size_t>(width), 1);
      pass(passes_of(level, T{}), after.data(), before.data(), transposed.data(), dot.data(), columns.data());
      std::vector<double> dot_want(static_cast<size_t>(rows), 1), columns_want(static_cast<size_t>(width), 1);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          const auto at = static_cast<size_t>(r * width + c);
          const float a = r < tile.valid ? after_want(r, c) : 0.0f, b = r < tile.valid ? before_want(r, c) : 0.0f;
          ASSERT_TRUE(same(after[static_cast<size_t>(place(r, c, tile.ld))], a))
              << level.name << ", after " << r << ", " << c;
          ASSERT_TRUE(same(before[static_cast<size_t>(r * tile.ld_before + c)], b))
              << level.name << ", before " << r << ", " << c;
          ASSERT_TRUE(same(transposed[static_cast<size_t>(c * rows + r)], b))
              << level.name << ", transposed " << r << ", " << c;
          if (r < tile.valid) {
            dot_want[static_cast<size_t>(r)] += static_cast<double>(through[at]) * static_cast<double>(a);
          }
          columns_want[static_cast<size_t>(c)] += static_cast<double>(b);
        }
        for (int64_t c = tile.ld; c < tile.ld_before; ++c) {
          ASSERT_TRUE(same(before[static_cast<size_t>(r * tile.ld_before + c)], 5))
              << level.name << " writes past " << r;
        }
      }
      const auto near = [](float got, double want) {
        return std::isfinite(want) ? std::abs(got - want) < 1e-3 : !std::isfinite(got);
      };
      for (size_t r = 0; r < dot.size(); ++r) ASSERT_TRUE(near(dot[r], dot_want[r])) << level.name << ", dot " << r;
      for (size_t c = 0; c < columns.size(); ++c)
        ASSERT_TRUE(near(columns[c], columns_want[c])) << level.name << ", column " << c;
    }
  }
};

TYPED_TEST(HiddenPassesOf, FinishBackwardInEveryLayout) {
  using T = TypeParam;
  for (int round = 0; round < 100; ++round) {
    const TileCase<T> hidden(this->draw_, this->kPairs);
    const int64_t width = hidden.tile.width;
    const std::vector<float> after = this->draw_.template numbers<float>(hidden.tile.rows * width);
    const std::vector<float> before = this->draw_.template numbers<float>(hidden.tile.rows * width);
    hidden.check(
        [&](const RowPasses<T>& passes, T* a, T* b, T* transposed, float* dot, float* columns) {
          passes.finish_backward(hidden.tile, hidden.through.data(), after.data(), before.data(), a, b, transposed, dot,
                                 columns);
        },
        [&](int64_t r, int64_t c) { return after[static_cast<size_t>(r * width + c)]; },
        [&](int64_t r, int64_t c) { return before[static_cast<size_t>(r * width + c)]; }, this->place);
  }
}

TYPED_TEST(HiddenPassesOf, ReluBackwardInEveryLayout) {
  using T = TypeParam;
  for (int round = 0; round < 100; ++round) {
    TileCase<T> hidden(this->draw_, this->kPairs);
    HiddenTile& tile = hidden.tile;
    tile.kept_scale = round % 2 == 0 ? 1.0f : 1.25f;
    tile.ahead = round % 3 == 0 ? 0 : 1 << 20;  // what is asked for in advance need not be there
    const int64_t ld = tile.width + this->draw_.size(0, 20);
    const std::vector<T> kept = this->draw_.template numbers<T>(tile.valid * ld);  // no row more than there are
    const std::vector<float> scale = this->draw_.template numbers<float>(tile.valid);
    const auto hidden_at = [&](int64_t r, int64_t c) { return as_float(kept[static_cast<size_t>(r * ld + c)]); };
    hidden.check(
        [&](const RowPasses<T>& passes, T* a, T* b, T* transposed, float* dot, float* columns) {
          passes.relu_backward(tile, hidden.through.data(), scale.data(), kept.data(), ld, a, b, transposed, dot,
                               columns);
        },
        [&](int64_t r, int64_t c) {
          const float h = hidden_at(r, c);
          return h <= 0 ? 0.0f : as_float(rounded_to<T>(h * tile.kept_scale));
        },
        [&](int64_t r, int64_t c) {
          const float through = hidden.through[static_cast<size_t>(r * tile.width + c)];
          return hidden_at(r, c) <= 0 ? 0.0f : through * scale[static_cast<size_t>(r)] * tile.kept_scale;
        },
        this->place);
  }
}

/// A function of a gate in double precision, at a number that T has.
template <class T>
ValueAndSlope<double> exactly(GateFunction function, T x) {
  return gate_function_at(function, static_cast<double>(as_float(x)));
}

/// As near as an fp32 number can be after a few operations, or T's nearest one or a neighbour of it; or neither finite.
template <class T>
::testing::AssertionResult about(T got, double want, double size = 1) {
  const double a = static_cast<double>(as_float(got)), step = std::is_same_v<T, float> ? 1e-6 : 1.0 / 200;
  if (!std::isfinite(want) && !std::isfinite(a)) return ::testing::AssertionSuccess();
  if (std::abs(a - want) <= step * (std::abs(want) + (std::is_same_v<T, float> ? size : 0)) + 1e-6 * size) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << a << " where " << want << " should be";
}

const std::vector<GateFunction> kFunctions = {GateFunction::kRelu, GateFunction::kGelu, GateFunction::kGeluTanh,
                                              GateFunction::kSilu};

TYPED_TEST(HiddenPassesOf, ActivateWithEveryFunction) {
  using T = TypeParam;
  for (int round = 0; round < 200; ++round) {
    const GateFunction function = kFunctions[static_cast<size_t>(round % 4)];
    const int64_t rows = this->draw_.size(1, 9), valid = rows - this->draw_.size(0, 1), width = this->draw_.width(80);
    const int64_t ld = this->kPairs ? width + width % 2 : width, ld_kept = 2 * width + this->draw_.size(0, 16);
    const bool gated = this->draw_.size(0, 1) == 1, keeps = this->draw_.size(0, 1) == 1;
    const std::vector<float> sum = this->draw_.template numbers<float>(rows * width);
    const std::vector<float> value_sum = this->draw_.template numbers<float>(rows * width);
    const std::vector<float> bias = this->draw_.template numbers<float>(2 * width);
    const std::vector<float> mask = this->draw_.template numbers<float>(rows * width);
    const bool masked = this->draw_.size(0, 1) == 1;
    const HiddenTile tile{
        .rows = rows, .valid = valid, .width = width, .ld = ld, .mask = masked ? mask.data() : nullptr};
    for (const RowPassesLevel& level : levels()) {
      const RowPasses<T>& passes = passes_of(level, T{});
      if (passes.activate == nullptr) continue;
      std::vector<T> kept(static_cast<size_t>(rows * ld_kept), rounded_to<T>(5)), out(static_cast<size_t>(rows * ld));
      const HiddenHalf<T> gate{sum.data(), bias.data(), keeps ? kept.data() : nullptr};
      const HiddenHalf<T> value{value_sum.data(), nullptr, keeps ? kept.data() + width : nullptr};
      passes.activate(tile, function, gate, gated ? &value : nullptr, ld_kept, out.data());
      for (int64_t r = 0; r < valid; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          const auto at = static_cast<size_t>(r * width + c), kept_at = static_cast<size_t>(r * ld_kept + c);
          const float pre = sum[at] + bias[static_cast<size_t>(c)];
          const T rounded = rounded_to<T>(pre), other = rounded_to<T>(value_sum[at]);
          double want = exactly(function, rounded).value;
          if (gated) want *= static_cast<double>(as_float(other));
          if (masked) want *= static_cast<double>(mask[at]);
          const double size = std::isfinite(want) && gated ? std::abs(static_cast<double>(as_float(other))) + 1 : 1;
          ASSERT_TRUE(about(out[static_cast<size_t>(r * ld + c)], want, 8 * size))
              << level.name << ", function " << static_cast<int>(function) << " of " << pre;
          if (!keeps) continue;
          ASSERT_TRUE(same(kept[kept_at], pre)) << level.name;
          ASSERT_TRUE(same(kept[kept_at + static_cast<size_t>(width)], gated ? value_sum[at] : 5)) << level.name;
        }
        for (int64_t c = width; c < ld; ++c) ASSERT_TRUE(same(out[static_cast<size_t>(r * ld + c)], 0)) << level.name;
      }
    }
  }
}

TYPED_TEST(HiddenPassesOf, ActivateBackwardWithEveryFunction) {
  using T = TypeParam;
  for (int round = 0; round < 200; ++round) {
    const GateFunction function = kFunctions[static_cast<size_t>(round % 4)];
    const int64_t rows = 8 * this->draw_.size(1, 9), valid = rows - this->draw_.size(0, 7);
    const int64_t width = 16 * this->draw_.size(1, 6), ld_kept = 2 * width + this->draw_.size(0, 16);
    const bool gated = this->draw_.size(0, 1) == 1, of_value = gated && this->draw_.size(0, 1) == 1;
    const std::vector<float> through = this->draw_.template numbers<float>(rows * width);
    const std::vector<float> mask = this->draw_.template numbers<float>(valid * width);
    const std::vector<float> scale = this->draw_.template numbers<float>(valid);
    const std::vector<T> kept = this->draw_.template numbers<T>(valid * ld_kept);  // no row more than there are
    const bool masked = this->draw_.size(0, 1) == 1;
    HiddenTile tile{.rows = rows, .valid = valid, .width = width, .ld = width, .mask = masked ? mask.data() : nullptr};
    tile.ld_before = width + 16;
    for (const RowPassesLevel& level : levels()) {
      const RowPasses<T>& passes = passes_of(level, T{});
      if (passes.activate_backward == nullptr) continue;
      std::vector<T> after(static_cast<size_t>(rows * width)), transposed(after.size());
      std::vector<T> before(static_cast<size_t>(rows * tile.ld_before));
      std::vector<float> dot(static_cast<size_t>(rows)), columns(static_cast<size_t>(width));
      passes.activate_backward(tile, function, of_value ? HiddenGradient::kValue : HiddenGradient::kGate,
                               through.data(), scale.data(), kept.data(), gated ? kept.data() + width : nullptr,
                               ld_kept, after.data(), before.data(), transposed.data(), dot.data(), columns.data());
      for (int64_t r = 0; r < rows; ++r) {
        double dot_want = 0;
        for (int64_t c = 0; c < width; ++c) {
          double a = 0, b = 0;
          if (r < valid) {
            const auto at = static_cast<size_t>(r * width + c), kept_at = static_cast<size_t>(r * ld_kept + c);
            const ValueAndSlope<double> f = exactly(function, kept[kept_at]);
            const double value = gated ? static_cast<double>(as_float(kept[kept_at + static_cast<size_t>(width)])) : 1;
            const double drop = masked ? static_cast<double>(mask[at]) : 1;
            a = f.value * value * drop;
            b = static_cast<double>(through[at]) * static_cast<double>(scale[static_cast<size_t>(r)]) * drop *
                (of_value ? f.value : f.slope * value);
            dot_want += static_cast<double>(through[at]) * a;
          }
          ASSERT_TRUE(about(after[static_cast<size_t>(this->place(r, c, width))], a, 16)) << level.name;
          ASSERT_TRUE(about(before[static_cast<size_t>(r * tile.ld_before + c)], b, 64))
              << level.name << ", function " << static_cast<int>(function);
          ASSERT_TRUE(same(transposed[static_cast<size_t>(c * rows + r)],
                           as_float(before[static_cast<size_t>(r * tile.ld_before + c)])));
        }
        const float got = dot[static_cast<size_t>(r)];
        ASSERT_TRUE(std::isfinite(dot_want) ? std::abs(static_cast<double>(got) - dot_want) < 1e-3
                                            : !std::isfinite(got));
      }
    }
  }
}

}  // namespace
}  // namespace smoe::testing
