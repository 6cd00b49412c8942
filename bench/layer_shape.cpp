#include "bench/layer_shape.h"

#include <algorithm>
#include <charconv>

#include "smoe/base/error.h"

namespace smoe::bench {
namespace {

constexpr int64_t kLargest = 1 << 24;

int64_t& size_of(LayerShape& shape, char letter) {
  switch (letter) {
    case 'E': return shape.E;
    case 'D': return shape.D;
    case 'H': return shape.H;
    case 'T': return shape.T;
    default: return shape.K;
  }
}

}  // namespace

std::string LayerShape::text() const { return concat("E", E, ",D", D, ",H", H, ",T", T, ",K", K); }

void LayerShape::check() const {
  require(K <= E, "--shape: K = ", K, " is larger than E = ", E, ": a token takes each expert at most once");
}

LayerShape parse_shape(const std::string& text, std::string_view needed, std::string_view known,
                       const std::string& example) {
  LayerShape shape;
  const std::string reads = "; a shape reads like " + example;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    require(!part.empty() && known.find(part[0]) != std::string_view::npos, "--shape: '", part, "' in '", text,
            "' is not a size", reads);
    int64_t number = 0;
    const auto [stop, error] = std::from_chars(part.data() + 1, part.data() + part.size(), number);
    require(error == std::errc() && stop == part.data() + part.size() && number >= 1 && number <= kLargest,
            "--shape: '", part, "' in '", text, "': ", part[0], " must be a number from 1 to ", kLargest);
    int64_t& size = size_of(shape, part[0]);
    require(size == 0, "--shape: '", text, "' says ", part[0], " twice");
    size = number;
    begin = end + 1;
  }
  for (const char letter : needed) require(size_of(shape, letter) != 0, "--shape: '", text, "' lacks ", letter, reads);
  return shape;
}

}  // namespace smoe::bench
