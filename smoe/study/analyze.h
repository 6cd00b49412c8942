// smoe analyze: the statistics of routing traces as JSON, as text and as a page.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "smoe/plan/types.h"

namespace smoe {

/// A trace and what it is called.
struct NamedTrace {
  std::string name;
  RoutingTrace trace;
};

/// All statistics of the traces, and how far each two of them agree; docs/formats.md says what is in it. Throws UserError
/// where there is no trace, or two have one name.
nlohmann::ordered_json analysis_data(const std::vector<NamedTrace>& traces);

/// The main numbers as a table, for a terminal.
std::string analysis_table(const nlohmann::ordered_json& data);

/// The page around `data`: one HTML file that asks nothing of any network.
std::string analysis_page(const nlohmann::ordered_json& data);

}  // namespace smoe
