#include "smoe/plan/trace_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <set>
#include <span>
#include <string_view>

#include "smoe/base/error.h"
#include "smoe/base/quote.h"
#include "smoe/base/safetensors.h"

namespace smoe {
namespace {

constexpr const char* kFormat = "smoe-trace";
constexpr const char* kVersion = "1";

template <class T>
constexpr const char* kDtype = nullptr;
template <>
constexpr const char* kDtype<int32_t> = "I32";
template <>
constexpr const char* kDtype<uint8_t> = "U8";
template <>
constexpr const char* kDtype<float> = "F32";

template <class T>
TensorBytes tensor_of(const std::string& name, const std::vector<T>& values, std::vector<int64_t> shape) {
  return {name, kDtype<T>, std::move(shape), std::as_bytes(std::span(values))};
}

/// The tensors of a file, each taken once.
class Tensors {
 public:
  Tensors(const SafetensorsView& view, const std::string& source) : view_(view), source_(source) {}

  bool has(const std::string& name) const { return view_.find(name) != nullptr; }

  /// The values of a tensor and its shape, which must have so many dimensions.
  template <class T>
  std::vector<T> take(const std::string& name, size_t dimensions, std::vector<int64_t>* shape = nullptr) {
    const TensorBytes* tensor = view_.find(name);
    require(tensor != nullptr, source_, ": tensor '", name, "' is missing");
    require(tensor->dtype == kDtype<T> && tensor->shape.size() == dimensions, source_, ": tensor '", name, "' must be ",
            kDtype<T>, " in ", dimensions, " dimensions");
    ++taken_;
    if (shape != nullptr) *shape = tensor->shape;
    std::vector<T> values(tensor->bytes.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());  // may be unaligned
    return values;
  }

  bool all_taken() const { return taken_ == view_.tensors.size(); }

 private:
  const SafetensorsView& view_;
  const std::string& source_;
  size_t taken_ = 0;
};

/// A number in the names and the metadata of a file: digits as a program writes them; −1 otherwise.
int64_t whole_number(std::string_view text) {
  int64_t number = -1;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool is_plain = error == std::errc() && stop == text.data() + text.size() && number >= 0;
  return is_plain && std::to_string(number) == text ? number : -1;
}

/// The layers that a file has, by the names of their tensors "layers.N.expert".
std::set<int64_t> layers_of(const SafetensorsView& view) {
  constexpr std::string_view kBefore = "layers.", kBehind = ".expert";
  std::set<int64_t> layers;
  for (const TensorBytes& tensor : view.tensors) {
    std::string_view name = tensor.name;
    if (!name.starts_with(kBefore) || !name.ends_with(kBehind) || name.size() <= kBefore.size() + kBehind.size())
      continue;
    name.remove_prefix(kBefore.size());
    name.remove_suffix(kBehind.size());
    if (const int64_t layer = whole_number(name); layer >= 0) layers.insert(layer);
  }
  return layers;
}

TraceLayer read_layer(Tensors& tensors, int64_t index, const std::string& source) {
  const std::string name = concat("layers.", index, ".");
  std::vector<int64_t> shape, kept_shape;
  TraceLayer layer{.layer = index, .slots = 0, .expert = {}, .kept = {}, .network = {}, .similarity = {}};
  layer.expert = tensors.take<int32_t>(name + "expert", 2, &shape);
  layer.kept = tensors.take<uint8_t>(name + "kept", 2, &kept_shape);
  require(shape == kept_shape, source, ": '", name, "expert' and '", name, "kept' are not of one shape");
  layer.slots = shape[1];
  layer.network = tensors.take<uint8_t>(name + "network", 1);
  if (!tensors.has(name + "similarity")) return layer;
  layer.similarity = tensors.take<float>(name + "similarity", 2, &shape);
  require(shape[0] == shape[1] && shape[0] > 0, source, ": '", name, "similarity' is not a square");
  return layer;
}

void check_slots(const TraceLayer& layer, const std::string& where) {
  const auto slots = static_cast<size_t>(layer.slots);
  std::vector<int64_t> last(layer.network.size(), -1);  // the token that took each expert last
  for (size_t i = 0; i < layer.expert.size(); ++i) {
    const int32_t expert = layer.expert[i];
    const auto token = static_cast<int64_t>(i / slots);
    require(expert >= -1 && expert < layer.experts(), where, ": token ", token, " has expert ", expert,
            ", which is outside -1 to ", layer.experts() - 1);
    require(layer.kept[i] <= (expert >= 0 ? 1 : 0), where, ": token ", token,
            " keeps what is no expert, or 'kept' is neither 0 nor 1");
    if (expert < 0) continue;
    int64_t& before = last[static_cast<size_t>(expert)];
    require(before != token, where, ": token ", token, " has expert ", expert, " twice");
    before = token;
  }
}

void check_layer(const RoutingTrace& trace, const TraceLayer& layer, const std::string& source) {
  const std::string where = concat(source, ": layer ", layer.layer);
  require(layer.experts() >= 1 && layer.experts() <= kMostTraceExperts, where, ": has ", layer.experts(),
          " experts; it must have 1 to ", kMostTraceExperts);
  require(layer.slots >= 0 && layer.slots <= layer.experts(), where, ": has ", layer.slots, " slots a token for ",
          layer.experts(), " experts");
  const auto places = static_cast<size_t>(trace.tokens() * layer.slots);
  require(layer.expert.size() == places && layer.kept.size() == places, where, ": is not of ", trace.tokens(),
          " tokens with ", layer.slots, " slots each");
  const auto is_flag = [](uint8_t value) { return value <= 1; };
  require(std::all_of(layer.network.begin(), layer.network.end(), is_flag), where, ": 'network' must be 0 or 1");
  check_slots(layer, where);
  const auto networks = static_cast<size_t>(std::count(layer.network.begin(), layer.network.end(), 1));
  require(layer.similarity.empty() || layer.similarity.size() == networks * networks, where,
          ": 'similarity' is not of its ", networks, " networks");
  const auto is_cosine = [](float value) { return std::abs(value) <= 1.001F; };  // false for what is no number
  require(std::all_of(layer.similarity.begin(), layer.similarity.end(), is_cosine), where,
          ": 'similarity' must be between -1 and 1");
}

}  // namespace

void check_trace(const RoutingTrace& trace, const std::string& source) {
  const size_t tokens = trace.token.size();
  require(tokens > 0, source, ": has no tokens");
  require(!trace.layers.empty(), source, ": has no layer");
  require(trace.step >= 0, source, ": its step must be at least 0");
  require(trace.call.size() == tokens && trace.sequence.size() == tokens && trace.position.size() == tokens, source,
          ": 'token', 'call', 'sequence' and 'position' are not of one length");
  require(!trace.byte.empty() && trace.byte.size() <= 256, source, ": 'byte' must have 1 to 256 entries");
  const auto vocabulary = static_cast<int32_t>(trace.byte.size());
  for (size_t i = 0; i < tokens; ++i) {
    require(trace.token[i] >= 0 && trace.token[i] < vocabulary, source, ": token ", i, " has id ", trace.token[i],
            ", which is outside 0 to ", vocabulary - 1);
    require(trace.call[i] >= 0 && trace.sequence[i] >= 0 && trace.position[i] >= 0, source, ": token ", i,
            " has a call, sequence or position below 0");
    require(i == 0 || trace.call[i] >= trace.call[i - 1], source, ": token ", i, " comes after a later call");
  }
  for (size_t i = 0; i < trace.layers.size(); ++i) {
    require(i == 0 || trace.layers[i].layer > trace.layers[i - 1].layer, source, ": its layers do not rise");
    check_layer(trace, trace.layers[i], source);
  }
}

void write_trace(const std::filesystem::path& path, const RoutingTrace& trace) {
  check_trace(trace, path.string());
  const int64_t T = trace.tokens();
  std::vector<TensorBytes> tensors{tensor_of("token", trace.token, {T}), tensor_of("call", trace.call, {T}),
                                   tensor_of("sequence", trace.sequence, {T}),
                                   tensor_of("position", trace.position, {T}),
                                   tensor_of("byte", trace.byte, {static_cast<int64_t>(trace.byte.size())})};
  for (const TraceLayer& layer : trace.layers) {
    const std::string name = concat("layers.", layer.layer, ".");
    tensors.push_back(tensor_of(name + "expert", layer.expert, {T, layer.slots}));
    tensors.push_back(tensor_of(name + "kept", layer.kept, {T, layer.slots}));
    tensors.push_back(tensor_of(name + "network", layer.network, {layer.experts()}));
    if (layer.similarity.empty()) continue;
    const int64_t n = std::count(layer.network.begin(), layer.network.end(), 1);
    tensors.push_back(tensor_of(name + "similarity", layer.similarity, {n, n}));
  }
  write_safetensors(path, tensors,
                    {{"format", kFormat},
                     {"version", kVersion},
                     {"model", valid_utf8(trace.model)},
                     {"setting", valid_utf8(trace.setting)},
                     {"step", std::to_string(trace.step)}});
}

RoutingTrace read_trace(const std::filesystem::path& path) {
  const std::string source = path.string();
  const MappedFile file(path);
  const SafetensorsView view = parse_safetensors(file.bytes(), source);
  const auto word = [&](const char* key) {
    const auto found = view.metadata.find(key);
    require(found != view.metadata.end(), source, ": is no trace of smoe analyze: its metadata has no \"", key, "\"");
    return found->second;
  };
  require(word("format") == kFormat, source, ": is no trace of smoe analyze: its \"format\" is not \"", kFormat, "\"");
  require(word("version") == kVersion, source, ": \"version\" must be ", kVersion,
          "; a newer smoe may have written it");
  RoutingTrace trace;
  trace.model = word("model");
  trace.setting = word("setting");
  trace.step = whole_number(word("step"));
  require(trace.step >= 0, source, ": \"step\" must be a whole number of at least 0");
  Tensors tensors(view, source);
  trace.token = tensors.take<int32_t>("token", 1);
  trace.call = tensors.take<int32_t>("call", 1);
  trace.sequence = tensors.take<int32_t>("sequence", 1);
  trace.position = tensors.take<int32_t>("position", 1);
  trace.byte = tensors.take<uint8_t>("byte", 1);
  for (const int64_t index : layers_of(view)) trace.layers.push_back(read_layer(tensors, index, source));
  require(tensors.all_taken(), source, ": has tensors that no trace has");
  check_trace(trace, source);
  return trace;
}

}  // namespace smoe
