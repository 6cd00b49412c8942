// The one precompiled header of the build; never included by hand.
#pragma once

#include <torch/torch.h>

#include <nlohmann/json.hpp>
