// smoe report: one HTML page about one run, or several side by side.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "smoe/study/run_record.h"

namespace smoe {

/// How much of a long run a page holds.
struct ReportLimits {
  size_t lines = 2000;   ///< about so many training lines a run; the extremes among those left out stay
  size_t columns = 160;  ///< columns of a heat map; each is the mean of its lines
};

/// Everything that the page shows, as JSON; docs/formats.md says what is in it. Two runs need two names: a run is called
/// after its folder, and where two folders are called the same, by the path it was given as. Throws UserError where a
/// run is given twice, or there is none.
nlohmann::ordered_json report_data(const std::vector<RunRecord>& runs, const ReportLimits& limits = {});

/// The page around `data`: one HTML file that asks nothing of any network. With `refresh` > 0 it loads itself again after
/// so many seconds.
std::string report_page(const nlohmann::ordered_json& data, int64_t refresh);

}  // namespace smoe
