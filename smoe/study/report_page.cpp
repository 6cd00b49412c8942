// The page around a report's data.
#include <nlohmann/json.hpp>

#include "smoe/study/page.h"
#include "smoe/study/page_assets.h"
#include "smoe/study/report.h"

namespace smoe {

std::string report_page(const nlohmann::ordered_json& data, int64_t refresh) {
  std::string names;
  for (const auto& run : data.at("runs")) names += (names.empty() ? "" : ", ") + run.at("name").get<std::string>();
  return make_page({.verb = "report",
                    .title = names,
                    .controls = kReportControls,
                    .choice = "Runs in the charts",
                    .script = kReportScript,
                    .refresh = refresh},
                   data);
}

}  // namespace smoe
