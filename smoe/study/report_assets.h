// The parts of a report's page that are no C++: filled in by CMake (cmake/report_assets.cpp.in) from the files beside
// this one and from uPlot.
#pragma once

namespace smoe {

extern const char* const kReportTemplate;  ///< report_page.html; {{name}} stands where a part goes
extern const char* const kReportStyle;
extern const char* const kReportScript;
extern const char* const kUplotScript;
extern const char* const kUplotStyle;
extern const char* const kUplotLicense;

}  // namespace smoe
