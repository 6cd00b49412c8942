// Random mixtures for the tests of the kernels, and what they must compute, written without the kernels.
#pragma once

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "smoe/kernels/moe_mlp.h"
#include "smoe/kernels/moe_mlp_bodies.h"

namespace smoe::testing {

/// The arguments of one call of moe_mlp. Values are fp64 and exact in the dtype under test.
struct MixtureCase {
  at::Tensor x, expert, weight;
  MlpWeights weights;
  Activation activation = Activation::kRelu;
  double dropout_p = 0;
  uint64_t dropout_key = 0;

  int64_t tokens() const { return x.size(0); }
  int64_t experts() const { return weights.w1.size(0); }
  /// In words, for the message of a failure.
  std::string describe() const;
  /// x, weight and those weights that there are, cast to `x_type` and `weights_type`.
  MixtureCase to(at::ScalarType x_type, at::ScalarType weights_type) const;
  MixtureCase to(at::ScalarType type) const { return to(type, type); }
  /// The call for the tokens of `rows`, in that order.
  MixtureCase select(const at::Tensor& rows) const;
};

struct CaseShape {
  int64_t T, K, E, D, H;
  bool b1 = true, b2 = true;
  Activation activation = Activation::kRelu;
};

/// Standard normal values, fp64 and rounded to `exact_in`.
at::Tensor normal_values(at::IntArrayRef shape, uint64_t seed, at::ScalarType exact_in = at::kDouble);

/// Normal values rounded to `exact_in`; a routing of K distinct experts per token, none of it empty.
MixtureCase make_case(const CaseShape& shape, uint64_t seed, at::ScalarType exact_in = at::kDouble);

/// A case of random shape and of everything that a routing may hold: empty slots as −1, other negative ids, the sentinel
/// E and ids past it; experts that nobody chose; one that takes all; int32 and int64 ids; T = 0 and 1.
MixtureCase random_case(std::mt19937_64& random, at::ScalarType exact_in = at::kDouble);

/// What a call must give, token by token and slot by slot in fp64: value [T, D], and in the same shape the size of the
/// terms that were added up on the way, which rounding errors are to be measured by.
struct Expected {
  at::Tensor value, size;
};
Expected naive_mixture(const MixtureCase& c);

using Body = std::function<at::Tensor(const MixtureCase&)>;

/// "moe_mlp", the operator, which takes the CPU body in fp32 and bf16; "reference", the plain body by itself; "grouped",
/// the operator where SMOE_KERNEL asks for that body.
struct NamedBody {
  std::string name;
  Body run;
  std::vector<at::ScalarType> types;
};
const std::vector<NamedBody>& bodies();
const NamedBody& body(const std::string& name);
/// Those that take x of that dtype.
std::vector<NamedBody> bodies_for(at::ScalarType type);

/// Sets SMOE_KERNEL and puts it back at the end.
class ForceKernel {
 public:
  explicit ForceKernel(const std::string& name);
  ~ForceKernel();
  ForceKernel(const ForceKernel&) = delete;
  ForceKernel& operator=(const ForceKernel&) = delete;

 private:
  std::optional<std::string> before_;
};

/// Whether two tensors have the same bytes, NaN included.
bool same_bits(const at::Tensor& a, const at::Tensor& b);

/// Sets the number of threads and puts it back at the end.
class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace smoe::testing
