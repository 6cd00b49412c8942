// The page around a comparison.
#include "smoe/study/compare_results.h"
#include "smoe/study/page.h"
#include "smoe/study/page_assets.h"

namespace smoe {

std::string comparison_page(const Comparison& comparison) {
  return make_page({.verb = "compare",
                    .title = comparison.title,
                    .controls = "",
                    .choice = "Entries in the charts",
                    .script = kCompareScript,
                    .refresh = 0},
                   to_json(comparison));
}

}  // namespace smoe
