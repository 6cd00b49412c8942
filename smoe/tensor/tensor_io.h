// Tensors to and from safetensors files.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace smoe {

/// Tensors by name, in the order in which they are written.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Writes the tensors (any device, any strides) row-major to `path`; fsync. Throws UserError for a dtype the format
/// lacks and Failure where the disk refuses.
void save_tensors(const std::filesystem::path& path, const NamedTensors& tensors,
                  const std::map<std::string, std::string>& metadata = {});

/// Reads all tensors of a file, copied into memory of their own. Throws UserError naming the file where it is broken.
NamedTensors load_tensors(const std::filesystem::path& path);

/// Copies `loaded` into `targets` in place. Every name must be in both and agree in shape and dtype; throws UserError
/// naming `source` and the tensor otherwise, before anything is copied.
void copy_tensors(const NamedTensors& loaded, const NamedTensors& targets, const std::string& source);

}  // namespace smoe
