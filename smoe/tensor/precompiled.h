// The one precompiled header of the build; never included by hand. It holds what most files need and no more: what
// headers leave to instantiate is instantiated again in every file, which with all of <torch/torch.h> takes four seconds.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/module.h>

#include <nlohmann/json.hpp>
