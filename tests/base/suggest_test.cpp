#include "smoe/base/suggest.h"

#include <gtest/gtest.h>

namespace smoe {
namespace {

TEST(Suggest, DistanceCountsEditsAndSwaps) {
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("layers", "layers"), 0u);
  EXPECT_EQ(edit_distance("layrs", "layers"), 1u);
  EXPECT_EQ(edit_distance("laayers", "layers"), 1u);
  EXPECT_EQ(edit_distance("lbyers", "layers"), 1u);
  EXPECT_EQ(edit_distance("alyers", "layers"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(Suggest, NamesTheNearest) {
  const std::vector<std::string> names = {"model.layers", "model.heads", "train.steps"};
  EXPECT_EQ(nearest_name("modle.layers", names), "model.layers");
  EXPECT_EQ(nearest_name("trian.stesp", names), "train.steps");
  EXPECT_EQ(nearest_name("color", names), "");
  EXPECT_EQ(suggest("model.head", names), "; did you mean 'model.heads'?");
  EXPECT_EQ(suggest("color", names), "; known: model.layers, model.heads, train.steps");
}

TEST(Suggest, JoinsNames) {
  EXPECT_EQ(join({}), "");
  EXPECT_EQ(join({"a"}), "a");
  EXPECT_EQ(join({"a", "b"}, " or "), "a or b");
}

}  // namespace
}  // namespace smoe
