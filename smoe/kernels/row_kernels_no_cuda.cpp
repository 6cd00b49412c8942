// In builds without our CUDA kernels.
#include "smoe/base/error.h"
#include "smoe/kernels/row_kernels.h"

namespace smoe {
namespace {

[[noreturn]] void not_built() { throw Failure("this build has no CUDA kernels of its own"); }

}  // namespace

bool row_kernels_take(const at::Tensor&) { return false; }

bool row_plan_cuda_takes(const at::Tensor&, int64_t) { return false; }

RowPlan row_plan_cuda(const at::Tensor&, int64_t, int64_t) { not_built(); }

at::Tensor weight_of_rows_cuda(const at::Tensor&, const RowPlan&) { not_built(); }

at::Tensor slots_of_rows_cuda(const at::Tensor&, const RowPlan&) { not_built(); }

at::Tensor gather_rows_cuda(const at::Tensor&, const RowPlan&) { not_built(); }

at::Tensor combine_rows_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&, const RowPlan&) { not_built(); }

std::pair<at::Tensor, at::Tensor> combine_rows_backward_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                                             const RowPlan&) {
  not_built();
}

at::Tensor hidden_rows_cuda(at::Tensor&, const at::Tensor&, const RowPlan&, const MlpOptions&, bool) { not_built(); }

HiddenGradients hidden_rows_backward_cuda(const at::Tensor&, OutputGradient, const RowPlan&, const MlpOptions&) {
  not_built();
}

void zero_empty_groups_cuda(at::Tensor&, const at::Tensor&) { not_built(); }

at::Tensor column_sums_cuda(const at::Tensor&, const at::Tensor&, const at::Tensor&) { not_built(); }

at::Tensor dropout_cuda(const at::Tensor&, double, uint64_t) { not_built(); }

}  // namespace smoe
