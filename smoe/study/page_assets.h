// The parts of pages that are no C++: filled in by CMake (cmake/page_assets.cpp.in) from the files beside this one and from
// uPlot.
#pragma once

namespace smoe {

extern const char* const kPageTemplate;  ///< page.html; {{name}} stands where a part goes
extern const char* const kPageStyle;
extern const char* const kPageScript;  ///< what all pages share
extern const char* const kReportControls;
extern const char* const kReportScript;
extern const char* const kCompareScript;
extern const char* const kAnalyzeScript;
extern const char* const kUplotScript;
extern const char* const kUplotStyle;
extern const char* const kUplotLicense;

}  // namespace smoe
