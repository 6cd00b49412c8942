#include "smoe/tensor/tensor_io.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <cstring>
#include <unordered_map>

#include "smoe/base/error.h"
#include "smoe/base/quote.h"
#include "smoe/base/safetensors.h"
#include "smoe/base/suggest.h"

namespace smoe {
namespace {

struct DtypeName {
  at::ScalarType type;
  const char* name;
};

constexpr DtypeName kDtypeNames[] = {
    {at::kBool, "BOOL"}, {at::kByte, "U8"},  {at::kChar, "I8"},       {at::kShort, "I16"}, {at::kInt, "I32"},
    {at::kLong, "I64"},  {at::kHalf, "F16"}, {at::kBFloat16, "BF16"}, {at::kFloat, "F32"}, {at::kDouble, "F64"},
};

std::string dtype_name(at::ScalarType type, const std::string& tensor) {
  for (const DtypeName& entry : kDtypeNames) {
    if (entry.type == type) return entry.name;
  }
  throw UserError(concat("tensor '", tensor, "' has dtype ", type, ", which is not saved"));
}

at::ScalarType dtype_of(const std::string& name, const std::string& tensor, const std::string& source) {
  for (const DtypeName& entry : kDtypeNames) {
    if (name == entry.name) return entry.type;
  }
  throw UserError(source + ": tensor '" + tensor + "' has dtype " + name + ", which smoe does not compute with");
}

}  // namespace

void save_tensors(const std::filesystem::path& path, const NamedTensors& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> rows;  // keeps the row-major host copies alive until they are written
  std::vector<TensorBytes> bytes;
  for (const auto& [name, tensor] : tensors) {
    rows.push_back(tensor.detach().to(at::kCPU).contiguous());
    const at::Tensor& row = rows.back();
    bytes.push_back({name,
                     dtype_name(row.scalar_type(), name),
                     row.sizes().vec(),
                     {static_cast<const std::byte*>(row.const_data_ptr()), row.nbytes()}});
  }
  write_safetensors(path, bytes, metadata);
}

NamedTensors load_tensors(const std::filesystem::path& path) {
  const MappedFile file(path);
  NamedTensors out;
  for (const TensorBytes& entry : parse_safetensors(file.bytes(), path.string()).tensors) {
    at::Tensor tensor = at::empty(entry.shape, dtype_of(entry.dtype, entry.name, path.string()));
    if (!entry.bytes.empty()) std::memcpy(tensor.mutable_data_ptr(), entry.bytes.data(), entry.bytes.size());
    out.emplace_back(entry.name, std::move(tensor));
  }
  return out;
}

void copy_tensors(const NamedTensors& loaded, const NamedTensors& targets, const std::string& source) {
  std::unordered_map<std::string, at::Tensor> by_name(loaded.begin(), loaded.end());
  std::vector<std::string> target_names;
  for (const auto& [name, target] : targets) {
    target_names.push_back(name);
    const auto found = by_name.find(name);
    require(found != by_name.end(), source, ": tensor ", quoted_name(name), " is missing");
    const at::Tensor& value = found->second;
    require(value.sizes() == target.sizes(), source, ": tensor ", quoted_name(name), " has shape ", value.sizes(),
            ", the model wants ", target.sizes());
    require(value.scalar_type() == target.scalar_type(), source, ": tensor ", quoted_name(name), " has dtype ",
            value.scalar_type(), ", the model wants ", target.scalar_type());
  }
  if (loaded.size() != targets.size()) {
    const std::unordered_map<std::string, at::Tensor> known(targets.begin(), targets.end());
    for (const auto& [name, value] : loaded) {
      require(known.contains(name), source, ": tensor ", quoted_name(name), " is not part of the model",
              suggest(name, target_names));
    }
  }
  const at::NoGradGuard no_grad;
  for (const auto& [name, target] : targets) target.copy_(by_name.at(name));
}

}  // namespace smoe
