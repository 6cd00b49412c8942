#include "smoe/kernels/moe_mlp.h"

#include <cstdlib>
#include <string>

#include "smoe/base/error.h"
#include "smoe/base/suggest.h"
#include "smoe/kernels/moe_mlp_bodies.h"

namespace smoe {
namespace {

void check_arguments(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight, const MlpWeights& w) {
  require(w.w1.dim() == 3 && w.w2.dim() == 3, "moe_mlp: w1 must be [E, H, D] and w2 [E, D, H], got ", w.w1.sizes(),
          " and ", w.w2.sizes());
  const int64_t E = w.w1.size(0), H = w.w1.size(1), D = w.w1.size(2);
  require(w.w2.sizes() == at::IntArrayRef({E, D, H}), "moe_mlp: w2 must be [E, D, H] = [", E, ", ", D, ", ", H,
          "], got ", w.w2.sizes());
  require(!w.b1.defined() || w.b1.sizes() == at::IntArrayRef({E, H}), "moe_mlp: b1 must be [E, H] = [", E, ", ", H,
          "], got ", w.b1.defined() ? w.b1.sizes() : at::IntArrayRef());
  require(!w.b2.defined() || w.b2.sizes() == at::IntArrayRef({E, D}), "moe_mlp: b2 must be [E, D] = [", E, ", ", D,
          "], got ", w.b2.defined() ? w.b2.sizes() : at::IntArrayRef());
  require(x.dim() == 2 && x.size(1) == D, "moe_mlp: x must be [T, D = ", D, "], got ", x.sizes());
  require(expert.dim() == 2 && expert.size(0) == x.size(0), "moe_mlp: expert must be [T = ", x.size(0), ", K], got ",
          expert.sizes());
  require(expert.scalar_type() == at::kInt || expert.scalar_type() == at::kLong,
          "moe_mlp: expert must be int32 or int64, got ", expert.scalar_type());
  require(weight.sizes() == expert.sizes(), "moe_mlp: weight must have the shape of expert, ", expert.sizes(), ", got ",
          weight.sizes());
}

/// Whether the environment asks for the plain body. Read at each call, so that a program can compare the two.
bool reference_is_forced() {
  const char* set = std::getenv("SMOE_KERNEL");
  const std::string kernel = set == nullptr ? "" : set;
  require(kernel.empty() || kernel == "reference", "SMOE_KERNEL='", kernel, "' is not known",
          suggest(kernel, {"reference"}));
  return !kernel.empty();
}

}  // namespace

at::Tensor moe_mlp(const at::Tensor& x, const at::Tensor& expert, const at::Tensor& weight, const MlpWeights& weights,
                   Activation activation, double dropout_p, uint64_t dropout_key) {
  check_arguments(x, expert, weight, weights);
  require(dropout_p >= 0 && dropout_p < 1, "moe_mlp: dropout must be in [0, 1), got ", dropout_p);
  const DispatchPlan plan = make_dispatch_plan(expert, weights.w1.size(0));
  const MlpOptions options{.activation = activation, .dropout_p = dropout_p, .dropout_key = dropout_key};
  if (!reference_is_forced() && moe_mlp_cpu_takes(x, weights)) return moe_mlp_cpu(x, weight, weights, plan, options);
  return moe_mlp_reference(x, weight, weights, plan, options);
}

}  // namespace smoe
