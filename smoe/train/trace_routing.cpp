#include "smoe/train/trace_routing.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "smoe/base/config_text.h"
#include "smoe/base/error.h"
#include "smoe/moe/moe_layer.h"
#include "smoe/plan/trace_file.h"

namespace smoe {
namespace {

/// What each network of a layer makes of x [T, D]: [n, T, D] in fp32.
at::Tensor outputs_of(MoeLayer& layer, const at::Tensor& x) {
  const int64_t tokens = x.size(0);
  const at::Tensor weight = at::ones({tokens, 1}, x.options());
  std::vector<at::Tensor> outputs;
  for (const auto& group : layer.experts().groups()) {
    for (int64_t expert = 0; group->is_network() && expert < group->size(); ++expert) {
      const at::Tensor y = group->mix(x, at::full({tokens, 1}, expert, x.options().dtype(at::kInt)), weight, {});
      outputs.push_back((y.defined() ? y : at::zeros_like(x)).to(at::kFloat));
    }
  }
  return at::stack(outputs);
}

template <class T>
void append(std::vector<T>& values, const at::Tensor& more, at::ScalarType dtype) {
  const at::Tensor flat = more.to(at::kCPU, dtype).contiguous().view(-1);
  const T* data = flat.const_data_ptr<T>();
  values.insert(values.end(), data, data + flat.numel());
}

/// Mean over the tokens of the cosine of each two networks' outputs, [n · n]; nothing where one is not finite.
std::vector<float> similarity_of(MoeLayer& layer, const at::Tensor& x) {
  const at::Tensor outputs = outputs_of(layer, x);
  const at::Tensor unit = outputs / outputs.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-30);
  const at::Tensor cosine = at::einsum("atd,btd->ab", {unit, unit}) / static_cast<double>(x.size(0));
  std::vector<float> values;
  if (cosine.isfinite().all().item<bool>()) append(values, cosine, at::kFloat);
  return values;
}

/// Gathers a trace from what layers do, forward by forward.
class Tracer {
 public:
  explicit Tracer(LanguageModel& model) : mixtures_(model.mixtures()) {}

  void see(const LayerView& view) {
    const bool is_first = view.layer == (parts_.empty() ? view.layer : parts_.front().layer.layer);
    if (is_first) see_tokens(view.input.batch);
    const auto place =
        std::find_if(parts_.begin(), parts_.end(), [&](const Part& part) { return part.layer.layer == view.layer; });
    Part& part = place == parts_.end() ? begin_layer(view) : *place;
    part.expert.push_back(view.routing.expert.to(at::kCPU));
    part.kept.push_back(view.kept.expert.ge(0).to(at::kCPU));
  }

  RoutingTrace finish() {
    for (Part& part : parts_) {
      for (const at::Tensor& expert : part.expert) part.layer.slots = std::max(part.layer.slots, expert.size(1));
      for (size_t i = 0; i < part.expert.size(); ++i) {
        append_padded(part.layer.expert, part.expert[i], part.layer.slots, -1);
        append_padded(part.layer.kept, part.kept[i], part.layer.slots, 0);
      }
      trace_.layers.push_back(std::move(part.layer));
    }
    return std::move(trace_);
  }

 private:
  struct Part {
    TraceLayer layer;
    std::vector<at::Tensor> expert, kept;  // of each forward, [T, K], whose K may differ
  };

  void see_tokens(const BatchView& batch) {
    append(trace_.token, batch.token, at::kInt);
    append(trace_.sequence, batch.sequence, at::kInt);
    append(trace_.position, batch.position - batch.position.min(), at::kInt);
    trace_.call.insert(trace_.call.end(), static_cast<size_t>(batch.token.numel()), calls_++);
  }

  Part& begin_layer(const LayerView& view) {
    MoeLayer& mixture = *mixtures_.at(parts_.size());
    Part part;
    part.layer.layer = view.layer;
    for (const auto& group : mixture.experts().groups()) {
      part.layer.network.insert(part.layer.network.end(), static_cast<size_t>(group->size()), group->is_network());
    }
    const at::Tensor& x = view.input.x;
    part.layer.similarity = similarity_of(mixture, x.narrow(0, 0, std::min(x.size(0), kSimilarityTokens)));
    return parts_.emplace_back(std::move(part));
  }

  template <class T>
  static void append_padded(std::vector<T>& values, const at::Tensor& of_call, int64_t slots, int64_t empty) {
    const at::Tensor padded = at::full({of_call.size(0), slots}, empty, of_call.options().dtype(at::kInt));
    padded.narrow(1, 0, of_call.size(1)).copy_(of_call);
    append(values, padded, c10::CppTypeToScalarType<T>::value);
  }

  std::vector<MoeLayer*> mixtures_;
  std::vector<Part> parts_;
  RoutingTrace trace_;
  int32_t calls_ = 0;
};

}  // namespace

RoutingTrace trace_routing(const LoadedModel& loaded, const TokenSequence& text, const EvalLengths& lengths,
                           std::optional<double> dial, const std::string& source) {
  const at::NoGradGuard no_grad;
  LanguageModel& model = *loaded.model;
  const std::string name = loaded.folder.string();
  require(!model.mixtures().empty(), name, ": is a dense model and routes nothing");
  for (MoeLayer* mixture : model.mixtures()) {
    require(mixture->experts().size() <= kMostTraceExperts, name, ": has ", mixture->experts().size(),
            " experts in a layer; a trace takes ", kMostTraceExperts);
  }
  Tracer tracer(model);
  StatsBook book(StatsBook::Detail::kCounts);
  book.observe([&tracer](const LayerView& view) { tracer.see(view); });
  const EvalResult result = evaluate(model, text, lengths, dial, source, &book);
  RoutingTrace trace = tracer.finish();
  trace.model = name;
  if (result.value) {
    const bool is_whole = has_whole_values(result.dial);
    trace.setting = dial_name(result.dial) + " = " +
                    (is_whole ? concat(static_cast<int64_t>(*result.value)) : double_text(*result.value));
  }
  trace.step = recorded_data(loaded.folder).step;
  for (int64_t id = 0; id < loaded.vocabulary.size(); ++id) trace.byte.push_back(loaded.vocabulary.byte(id));
  return trace;
}

}  // namespace smoe
