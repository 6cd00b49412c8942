#include "smoe/moe/moe_layer.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>

#include "smoe/base/error.h"
#include "smoe/tensor/profiled_part.h"

namespace smoe {

namespace {

/// The shared experts of a layer, or null.
std::shared_ptr<ExpertGroup> make_shared_experts(MoeConfig config, int64_t width, double init_std,
                                                 const RandomStream& random) {
  if (config.shared_experts == 0) return nullptr;
  if (config.shared_width > 0) config.expert_width = config.shared_width;
  return find_expert_kind(config.expert_kind).make(config, config.shared_experts, width, init_std, random);
}

}  // namespace

MoeLayer::MoeLayer(const MoeConfig& config, const RouterPlace& place, double init_std, const RandomStream& random)
    : MoeLayer(find_router_kind(config.router).make(config, place, random.at("router")),
               std::make_shared<Experts>(routed_experts(config, place.width, init_std, random.at("experts"))),
               make_shared_experts(config, place.width, init_std, random.at("shared")),
               Capacity{.factor = config.capacity_factor,
                        .eval_factor = config.eval_capacity_factor,
                        .priority = parse_drop_priority(config.drop_priority),
                        .network_share = config.network_share}) {}

MoeLayer::MoeLayer(std::shared_ptr<Router> router, std::shared_ptr<Experts> experts,
                   std::shared_ptr<ExpertGroup> shared, const Capacity& capacity)
    : router_(std::move(router)), experts_(std::move(experts)), shared_(std::move(shared)), capacity_(capacity) {
  register_module("router", router_);
  register_module("experts", experts_);
  if (shared_ != nullptr) register_module("shared", shared_);
}

MoeLayer::Result MoeLayer::forward(const RouteInput& input, const MixOptions& options, StatsBook* book, int64_t layer) {
  const ProfiledPart part("smoe.router");  // and all else that is no expert
  require(input.x.dim() == 2, "a MoE layer takes x [T, D], got ", input.x.sizes());
  const Routing routing = router_->route(input);
  const Limited limited = this->limited(routing, input);
  at::Tensor y = experts_->mix(input.x, limited.routing, options);
  if (shared_ != nullptr) y = y + shared_output(input.x, options);
  if (book != nullptr) book->record(layer, routing, experts_->size(), limited.dropped, input.batch.valid);
  if (book != nullptr && book->observer()) book->observer()({layer, input, routing, limited.routing});
  return {y, routing.state};
}

Limited MoeLayer::limited(const Routing& routing, const RouteInput& input) const {
  const double factor = input.training || capacity_.eval_factor == 0 ? capacity_.factor : capacity_.eval_factor;
  if (factor == 0) return limit(routing, experts_->size(), -1, capacity_.priority);
  std::vector<double> shares;
  for (const auto& group : experts_->groups()) {
    shares.insert(shares.end(), static_cast<size_t>(group->size()), group->is_network() ? capacity_.network_share : 1);
  }
  const auto capacities = capacities_of(factor, input.x.size(0), routing.expert.size(1), shares);
  return limit(routing, capacities, capacity_.priority, input.batch.valid);
}

void MoeLayer::set_router(std::shared_ptr<Router> router) { router_ = replace_module("router", std::move(router)); }

at::Tensor MoeLayer::shared_output(const at::Tensor& x, const MixOptions& options) {
  MixOptions of_shared = options;
  of_shared.dropout_key = derive_key(options.dropout_key, ~uint64_t{0});  // past every routed group's key
  const int64_t tokens = x.size(0), count = shared_->size();
  const at::Tensor all = at::arange(count, x.options().dtype(at::kInt)).expand({tokens, count});
  const at::Tensor ones = at::ones({tokens, count}, x.options());
  return shared_->mix(x, all, ones, of_shared);
}

double MoeLayer::sum_of_active(const ActiveExperts& active, double (*of_group)(const ExpertGroup&)) const {
  double sum = 0;
  int64_t first = 0;
  for (const auto& group : experts_->groups()) {
    sum += active.among(first, group->size(), experts_->size()) * of_group(*group);
    first += group->size();
  }
  return sum;
}

double MoeLayer::flops_per_token(const ActiveExperts& active) const {
  double flops = static_cast<double>(router_->flops_per_token());
  flops += sum_of_active(active, [](const ExpertGroup& group) { return static_cast<double>(group.flops_per_row()); });
  if (shared_ != nullptr) flops += static_cast<double>(shared_->size() * shared_->flops_per_row());
  return flops;
}

double MoeLayer::active_parameters(const ActiveExperts& active) const {
  double count = 0;
  for (const at::Tensor& parameter : router_->parameters()) count += static_cast<double>(parameter.numel());
  count += sum_of_active(active,
                         [](const ExpertGroup& group) { return static_cast<double>(group.parameters_per_expert()); });
  if (shared_ != nullptr) count += static_cast<double>(shared_->size() * shared_->parameters_per_expert());
  return count;
}

double MoeLayer::active_networks(const ActiveExperts& active) const {
  return sum_of_active(active, [](const ExpertGroup& group) { return group.is_network() ? 1.0 : 0.0; });
}

PassMemory MoeLayer::pass_memory(int64_t tokens, double active, Precision precision, bool training) const {
  // The router: ids (as they are selected, and as int32) and weights for the backward pass; logits and probabilities.
  const auto T = static_cast<double>(tokens), all = static_cast<double>(experts_->size());
  PassMemory memory{.kept = training ? 16 * T * active : 0, .passing = 8 * T * all, .packed = 0};
  for (const auto& group : experts_->groups()) {
    memory += group->pass_memory(tokens, active * static_cast<double>(group->size()) / all, precision, training);
  }
  if (shared_ != nullptr) {
    memory += shared_->pass_memory(tokens, static_cast<double>(shared_->size()), precision, training);
  }
  return memory;
}

}  // namespace smoe
