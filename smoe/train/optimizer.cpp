#include "smoe/train/optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <utility>

#include "smoe/tensor/one_thread.h"
#include "smoe/tensor/profiled_part.h"

namespace smoe {
namespace {

constexpr int64_t kNormPiece = 65536;

// LibTorch's update takes whole vectors in one loop and what is left over in another, which rounds otherwise. Cut at
// multiples of this, a parameter's elements fall to the same loop in every share.
constexpr int64_t kVectors = 64;

}  // namespace

/// A range of the elements of one parameter.
struct TrainOptimizer::Piece {
  const Entry* entry;
  at::Tensor gradient;  // of the whole parameter, contiguous
  int64_t first, size;

  at::Tensor of(const at::Tensor& whole) const { return whole.detach().view({-1}).narrow(0, first, size); }
};

TrainOptimizer::TrainOptimizer(const torch::nn::Module& model, OptimizerConfig config) : config_(std::move(config)) {
  for (const auto& item : model.named_parameters()) {
    const at::Tensor& parameter = item.value();
    if (!parameter.requires_grad()) continue;
    const at::Tensor zeros = at::zeros_like(parameter.detach(), at::MemoryFormat::Contiguous);
    names_.push_back(item.key());
    entries_.push_back({parameter, zeros, zeros.clone(), at::zeros({}, at::kLong)});
  }
}

double TrainOptimizer::gradient_norm() const {
  const ProfiledPart part("smoe.optimizer");
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients, pieces;
  bool on_cpu = true;
  for (const Entry& entry : entries_) {
    if (!entry.parameter.grad().defined()) continue;
    gradients.push_back(entry.parameter.grad().contiguous().view({-1}));
    on_cpu = on_cpu && gradients.back().is_cpu();
  }
  if (gradients.empty()) return 0;
  if (!on_cpu) return at::stack(at::_foreach_norm(gradients)).to(at::kDouble).square().sum().sqrt().item<double>();
  for (const at::Tensor& gradient : gradients) {
    for (const at::Tensor& piece : gradient.split(kNormPiece)) pieces.push_back(piece);
  }
  const auto count = static_cast<int64_t>(pieces.size());
  std::vector<at::Tensor> squares(pieces.size());
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    const OneThreadProducts one_thread;
    for (auto i = static_cast<size_t>(begin); std::cmp_less(i, end); ++i) {
      squares[i] = at::dot(pieces[i], pieces[i]);
    }
  });
  // The pieces are the same on any number of threads, and so is the order in which they are added up.
  return at::stack(squares).to(at::kDouble).sum().sqrt().item<double>();
}

std::vector<std::vector<TrainOptimizer::Piece>> TrainOptimizer::shares(int64_t count) const {
  int64_t left = 0;
  for (const Entry& entry : entries_) left += entry.parameter.grad().defined() ? entry.parameter.numel() : 0;
  std::vector<std::vector<Piece>> out(static_cast<size_t>(count));
  size_t share = 0;
  int64_t room = left / count;
  for (const Entry& entry : entries_) {
    if (!entry.parameter.grad().defined()) continue;
    const at::Tensor gradient = entry.parameter.grad().contiguous();
    const int64_t numel = gradient.numel();
    for (int64_t first = 0; first < numel;) {
      const bool last = share + 1 == out.size();
      const int64_t whole = (std::max<int64_t>(room, 1) + kVectors - 1) / kVectors * kVectors;
      const int64_t size = last ? numel - first : std::min(numel - first, whole);
      out[share].push_back({&entry, gradient, first, size});
      first += size;
      room -= size;
      left -= size;
      if (room <= 0 && !last) room = left / (count - static_cast<int64_t>(++share));
    }
  }
  return out;
}

void TrainOptimizer::update(const std::vector<Piece>& share, double lr,
                            const std::optional<at::Tensor>& divisor) const {
  std::vector<at::Tensor> parameters, gradients, means, squares, updates;
  for (const Piece& piece : share) {
    parameters.push_back(piece.of(piece.entry->parameter));
    gradients.push_back(piece.of(piece.gradient));
    means.push_back(piece.of(piece.entry->mean));
    squares.push_back(piece.of(piece.entry->square));
    updates.push_back(piece.entry->updates.to(parameters.back().device(), at::kFloat));
  }
  const auto fused = config_.kind == "adamw" ? at::_ops::_fused_adamw_::call : at::_ops::_fused_adam_::call;
  fused(parameters, gradients, means, squares, {}, updates, lr, config_.beta1, config_.beta2, config_.weight_decay,
        config_.epsilon, /*amsgrad=*/false, /*maximize=*/false, divisor, /*found_inf=*/std::nullopt);
}

void TrainOptimizer::step(double lr, double norm) {
  const ProfiledPart part("smoe.optimizer");
  const at::NoGradGuard no_grad;
  const Entry* first = nullptr;
  for (Entry& entry : entries_) {
    if (!entry.parameter.grad().defined()) continue;
    if (first == nullptr) first = &entry;
    entry.updates += 1;
    // Who keeps something made of a parameter (a packed copy) knows by its version that it is out of date; the update
    // below goes past the counter.
    entry.parameter.unsafeGetTensorImpl()->bump_version();
  }
  if (first == nullptr) return;
  const double excess = (norm + 1e-6) / config_.clip_norm;
  std::optional<at::Tensor> divisor;
  if (excess > 1)
    divisor = at::scalar_tensor(excess, first->parameter.options().dtype(at::kFloat).requires_grad(false));
  // All parameters in one region, in as many equal shares as there are threads: most parameters are too small to share.
  const int64_t threads = first->parameter.is_cpu() ? at::get_num_threads() : 1;
  const std::vector<std::vector<Piece>> all = shares(threads);
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    for (int64_t i = begin; i < end; ++i) update(all[static_cast<size_t>(i)], lr, divisor);
  });
}

void TrainOptimizer::zero_gradients() {
  for (Entry& entry : entries_) entry.parameter.mutable_grad() = at::Tensor();
}

void TrainOptimizer::forget(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const auto found = std::find(names_.begin(), names_.end(), name);
    if (found == names_.end()) continue;
    entries_.erase(entries_.begin() + (found - names_.begin()));
    names_.erase(found);
  }
}

void TrainOptimizer::take_over(const TrainOptimizer& other) {
  for (size_t i = 0; i < names_.size(); ++i) {
    const auto found = std::find(other.names_.begin(), other.names_.end(), names_[i]);
    if (found == other.names_.end()) continue;
    const Entry& from = other.entries_[static_cast<size_t>(found - other.names_.begin())];
    Entry& to = entries_[i];
    if (from.parameter.sizes() != to.parameter.sizes()) continue;
    to.mean.copy_(from.mean);
    to.square.copy_(from.square);
    to.updates.copy_(from.updates);
  }
}

NamedTensors TrainOptimizer::state() const {
  NamedTensors out;
  for (size_t i = 0; i < names_.size(); ++i) {
    out.emplace_back("adam.mean." + names_[i], entries_[i].mean);
    out.emplace_back("adam.square." + names_[i], entries_[i].square);
    out.emplace_back("adam.updates." + names_[i], entries_[i].updates);
  }
  return out;
}

// NOLINTNEXTLINE(readability-make-member-function-const): it changes what the tensors hold
void TrainOptimizer::load_state(const NamedTensors& loaded, const std::string& source) {
  copy_tensors(loaded, state(), source);
}

std::string TrainOptimizer::first_bad_gradient() const {
  for (size_t i = 0; i < names_.size(); ++i) {
    const at::Tensor& gradient = entries_[i].parameter.grad();
    if (gradient.defined() && !gradient.isfinite().all().item<bool>()) return names_[i];
  }
  return "";
}

}  // namespace smoe
