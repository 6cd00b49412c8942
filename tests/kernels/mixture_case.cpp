#include "tests/kernels/mixture_case.h"

#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>
#include <stdexcept>

#include "smoe/kernels/dropout.h"
#include "smoe/tensor/random_stream.h"

namespace smoe::testing {
namespace {

double act(double x, Activation activation) {
  switch (activation) {
    case Activation::kRelu: return x > 0 ? x : 0;
    case Activation::kGelu: return x * 0.5 * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kSilu: return x / (1 + std::exp(-x));
    default: return NAN;
  }
}

}  // namespace

at::Tensor normal_values(at::IntArrayRef shape, uint64_t seed, at::ScalarType exact_in) {
  at::Tensor out = torch::empty(shape, torch::kFloat64);
  RandomStream(seed).fill_normal(out, 0, 1);
  return out.to(exact_in).to(torch::kFloat64);
}

std::string MixtureCase::describe() const {
  std::ostringstream out;
  out << "T " << tokens() << ", K " << expert.size(1) << ", E " << experts() << ", D " << x.size(1) << ", H "
      << weights.w2.size(2) << (weights.b1.defined() ? ", b1" : "") << (weights.b2.defined() ? ", b2" : "") << ", "
      << activation_names()[static_cast<size_t>(activation)] << ", dropout " << dropout_p << " key " << dropout_key
      << ", " << expert.scalar_type() << " ids";
  if (expert.numel() > 0 && expert.numel() <= 40) out << "\n" << expert;
  return out.str();
}

MixtureCase MixtureCase::to(at::ScalarType x_type, at::ScalarType weights_type) const {
  const auto cast = [&](const at::Tensor& w) { return w.defined() ? w.to(weights_type) : w; };
  MixtureCase out = *this;
  out.x = x.to(x_type);
  out.weight = weight.to(weights_type);
  out.weights = {cast(weights.w1), cast(weights.b1), cast(weights.w2), cast(weights.b2)};
  return out;
}

MixtureCase MixtureCase::select(const at::Tensor& rows) const {
  MixtureCase out = *this;
  out.x = x.index_select(0, rows);
  out.expert = expert.index_select(0, rows);
  out.weight = weight.index_select(0, rows);
  return out;
}

MixtureCase make_case(const CaseShape& s, uint64_t seed, at::ScalarType exact_in) {
  MixtureCase c;
  const auto draw = [&](uint64_t which, at::IntArrayRef shape) {
    return normal_values(shape, seed * 100 + which, exact_in);
  };
  const int64_t rows = is_gated(s.activation) ? 2 * s.H : s.H;
  c.activation = s.activation;
  c.x = draw(1, {s.T, s.D});
  c.weights.w1 = draw(2, {s.E, rows, s.D});
  if (s.b1) c.weights.b1 = draw(3, {s.E, rows});
  c.weights.w2 = draw(4, {s.E, s.D, s.H});
  if (s.b2) c.weights.b2 = draw(5, {s.E, s.D});
  c.weight = draw(6, {s.T, s.K});
  c.expert = std::get<1>(draw(7, {s.T, s.E}).topk(s.K, -1)).to(torch::kInt32);
  return c;
}

MixtureCase random_case(std::mt19937_64& random, at::ScalarType exact_in) {
  const auto below = [&](uint64_t n) { return static_cast<int64_t>(random() % n); };
  CaseShape s{.T = below(24), .K = 0, .E = 1 + below(9), .D = 1 + below(20), .H = 1 + below(23)};
  if (below(8) == 0) s.T = below(2);
  if (below(12) == 0) s.T = 60 + below(80);
  if (below(40) == 0) s = {.T = 33 + below(40), .K = 0, .E = 3, .D = 33 + below(100), .H = 65 + below(150)};
  if (below(8) == 0) s.D = 16 * (1 + below(2)), s.H = 16 * (1 + below(3));  // as at::_grouped_mm wants them
  s.K = below(6) == 0 ? s.E : below(6) == 0 ? 1 : 1 + below(static_cast<uint64_t>(s.E));
  s.b1 = below(4) != 0;
  s.b2 = below(4) != 0;
  s.activation = static_cast<Activation>(below(activation_names().size()));
  MixtureCase c = make_case(s, random() >> 16, exact_in);
  if (below(3) == 0) {
    c.dropout_p = 0.05 + 0.9 * static_cast<double>(below(1000)) / 1000;
    c.dropout_key = random();
  }
  const at::Tensor ids = c.expert.to(torch::kInt64).contiguous();
  int64_t* id = ids.data_ptr<int64_t>();
  if (below(10) == 0) ids.narrow(1, 1, s.K - 1).fill_(-1), ids.select(1, 0).fill_(below(static_cast<uint64_t>(s.E)));
  const int64_t gone = below(3) == 0 ? below(static_cast<uint64_t>(s.E)) : -1;  // the expert that nobody chooses
  const int64_t holes = below(3) == 0 ? 0 : below(101);
  const int64_t empties[] = {-1, s.E, -7, s.E + 1, 2147483647};
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (id[i] == gone || below(100) < holes) id[i] = empties[below(3) == 0 ? below(5) : 0];
  }
  c.expert = below(2) == 0 ? ids : ids.to(torch::kInt32);
  return c;
}

Expected naive_mixture(const MixtureCase& c) {
  const auto fp64 = [](const at::Tensor& t) { return t.defined() ? t.detach().to(torch::kFloat64).contiguous() : t; };
  const auto data = [](const at::Tensor& t) { return t.defined() ? t.data_ptr<double>() : nullptr; };
  const at::Tensor xs = fp64(c.x), weights = fp64(c.weight), experts = c.expert.to(torch::kInt64).contiguous();
  const at::Tensor w1s = fp64(c.weights.w1), b1s = fp64(c.weights.b1), w2s = fp64(c.weights.w2),
                   b2s = fp64(c.weights.b2);
  const double *x = data(xs), *weight = data(weights), *w1 = data(w1s), *b1 = data(b1s), *w2 = data(w2s),
               *b2 = data(b2s);
  const int64_t* expert = experts.data_ptr<int64_t>();
  const int64_t E = w2s.size(0), D = w2s.size(1), H = w2s.size(2), T = xs.size(0), K = experts.size(1);
  const int64_t halves = is_gated(c.activation) ? 2 : 1;
  const Activation gate = gate_function(c.activation);
  Expected out{torch::zeros({T, D}, torch::kFloat64), torch::zeros({T, D}, torch::kFloat64)};
  double *value = data(out.value), *value_size = data(out.size);
  std::vector<double> hidden(static_cast<size_t>(H)), size(static_cast<size_t>(H));
  for (int64_t i = 0; i < T * K; ++i) {
    const int64_t t = i / K, e = expert[i];
    if (e < 0 || e >= E) continue;
    at::Tensor mask;
    if (c.dropout_p > 0) {
      mask = fp64(expert_dropout_mask(torch::tensor({t}, torch::kInt64), e, H, c.dropout_p, c.dropout_key));
    }
    // The sum of row `row` of w1, and the sizes of its terms.
    const auto first_product = [&](int64_t row) {
      double sum = b1 != nullptr ? b1[row] : 0, sizes = std::abs(sum);
      for (int64_t d = 0; d < D; ++d) {
        sum += w1[row * D + d] * x[t * D + d];
        sizes += std::abs(w1[row * D + d] * x[t * D + d]);
      }
      return std::pair(sum, sizes);
    };
    for (int64_t h = 0; h < H; ++h) {
      const double keep = mask.defined() ? data(mask)[h] : 1;
      const auto [sum, sizes] = first_product(e * halves * H + h);
      const auto [up, up_sizes] = halves == 2 ? first_product((e * halves + 1) * H + h) : std::pair(1.0, 1.0);
      hidden[static_cast<size_t>(h)] = keep * act(sum, gate) * up;
      size[static_cast<size_t>(h)] = keep * sizes * up_sizes;  // no activation grows faster than 1.13 times its input
    }
    for (int64_t d = 0; d < D; ++d) {
      const int64_t row = e * D + d;
      double sum = b2 != nullptr ? b2[row] : 0, sizes = std::abs(sum);
      for (int64_t h = 0; h < H; ++h) {
        sum += w2[row * H + h] * hidden[static_cast<size_t>(h)];
        sizes += std::abs(w2[row * H + h]) * size[static_cast<size_t>(h)];
      }
      value[t * D + d] += weight[i] * sum;
      value_size[t * D + d] += std::abs(weight[i]) * sizes;
    }
  }
  return out;
}

const std::vector<NamedBody>& bodies() {
  static const auto kCall = [](const MixtureCase& c) {
    return MlpCall{c.x, c.expert, c.weight, c.weights, {c.activation, c.dropout_p, c.dropout_key}};
  };
  static const std::vector<NamedBody> kAll = {
      {"moe_mlp",
       [](const MixtureCase& c) {
         return moe_mlp(c.x, c.expert, c.weight, c.weights, c.activation, c.dropout_p, c.dropout_key);
       },
       {at::kFloat, at::kDouble, at::kBFloat16}},
      {"reference",
       [](const MixtureCase& c) { return moe_mlp_reference(kCall(c)); },
       {at::kFloat, at::kDouble, at::kBFloat16}},
      {"grouped",
       [](const MixtureCase& c) {
         const ForceKernel grouped("grouped");
         return moe_mlp(c.x, c.expert, c.weight, c.weights, c.activation, c.dropout_p, c.dropout_key);
       },
       {at::kFloat, at::kDouble, at::kBFloat16}},
  };
  return kAll;
}

const NamedBody& body(const std::string& name) {
  for (const NamedBody& candidate : bodies()) {
    if (candidate.name == name) return candidate;
  }
  throw std::logic_error("no body is called " + name);
}

std::vector<NamedBody> bodies_for(at::ScalarType type) {
  std::vector<NamedBody> out;
  for (const NamedBody& candidate : bodies()) {
    if (std::count(candidate.types.begin(), candidate.types.end(), type) > 0) out.push_back(candidate);
  }
  return out;
}

ForceKernel::ForceKernel(const std::string& name) {
  if (const char* set = std::getenv("SMOE_KERNEL")) before_ = set;
  ::setenv("SMOE_KERNEL", name.c_str(), 1);
}

ForceKernel::~ForceKernel() {
  if (before_) {
    ::setenv("SMOE_KERNEL", before_->c_str(), 1);
  } else {
    ::unsetenv("SMOE_KERNEL");
  }
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const at::Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  return x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

}  // namespace smoe::testing
