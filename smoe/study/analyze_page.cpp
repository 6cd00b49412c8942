// The page around an analysis of routing.
#include <nlohmann/json.hpp>

#include "smoe/study/analyze.h"
#include "smoe/study/page.h"
#include "smoe/study/page_assets.h"

namespace smoe {

std::string analysis_page(const nlohmann::ordered_json& data) {
  const auto& traces = data["traces"];
  const std::string first = traces[0]["name"].get<std::string>();
  return make_page(
      {.verb = "analyze",
       .title = traces.size() == 1 ? "Routing of " + first : "Routing of " + std::to_string(traces.size()) + " models",
       .controls = "",
       .choice = "Models in the charts",
       .script = kAnalyzeScript,
       .refresh = 0},
      data);
}

}  // namespace smoe
