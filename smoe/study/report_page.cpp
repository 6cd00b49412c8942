// The page around a report's data.
#include <string_view>

#include "smoe/base/error.h"
#include "smoe/study/report.h"
#include "smoe/study/report_assets.h"

namespace smoe {
namespace {

std::string html_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

/// JSON as it may stand in a <script>: nothing in it can end the element.
std::string script_json(const nlohmann::ordered_json& json) {
  std::string out;
  for (const char c : json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

std::string title_of(const nlohmann::ordered_json& data) {
  // By way of JSON, which puts something printable in the place of what is not UTF-8.
  std::string names;
  for (const auto& run : data.at("runs")) names += (names.empty() ? "" : ", ") + run.at("name").get<std::string>();
  const nlohmann::json name = names;
  return nlohmann::json::parse(name.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)).get<std::string>();
}

std::string part(std::string_view name, const nlohmann::ordered_json& data, int64_t refresh) {
  if (name == "title") return html_text(title_of(data));
  if (name == "refresh") return std::to_string(refresh);
  if (name == "data") return script_json(data);
  if (name == "style") return concat(kUplotStyle, "\n", kReportStyle);
  if (name == "uplot") return kUplotScript;
  if (name == "script") return kReportScript;
  if (name == "license") return html_text(kUplotLicense);
  throw Failure(concat("report_page.html: there is no part '", name, "'"));
}

}  // namespace

std::string report_page(const nlohmann::ordered_json& data, int64_t refresh) {
  const std::string_view page = kReportTemplate;
  std::string out;
  for (size_t begin = 0;;) {
    const size_t open = page.find("{{", begin), close = page.find("}}", open);
    out += page.substr(begin, open - begin);
    if (open == std::string_view::npos) return out;
    out += part(page.substr(open + 2, close - open - 2), data, refresh);
    begin = close + 2;
  }
}

}  // namespace smoe
