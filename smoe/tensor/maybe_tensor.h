// Tensors that need not be there: undefined in C++, None in an operator's schema.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace smoe {

using MaybeTensor = std::optional<at::Tensor>;

/// An operator's argument for a tensor that may be undefined.
inline MaybeTensor given(const at::Tensor& tensor) { return tensor.defined() ? MaybeTensor(tensor) : std::nullopt; }

}  // namespace smoe
