#include "smoe/study/page.h"

#include <nlohmann/json.hpp>

#include "smoe/base/error.h"
#include "smoe/base/quote.h"
#include "smoe/study/page_assets.h"

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

std::string part(std::string_view name, const PageParts& parts, const nlohmann::ordered_json& data) {
  if (name == "title") return html_text(valid_utf8(parts.title));
  if (name == "verb") return std::string(parts.verb);
  if (name == "controls") return std::string(parts.controls);
  if (name == "choice") return std::string(parts.choice);
  if (name == "refresh") return std::to_string(parts.refresh);
  if (name == "data") return script_json(data);
  if (name == "style") return concat(kUplotStyle, "\n", kPageStyle);
  if (name == "uplot") return kUplotScript;
  if (name == "script") return concat(kPageScript, "\n", parts.script);
  if (name == "license") return html_text(kUplotLicense);
  throw Failure(concat("page.html: there is no part '", name, "'"));
}

}  // namespace

std::string make_page(const PageParts& parts, const nlohmann::ordered_json& data) {
  const std::string_view page = kPageTemplate;
  std::string out;
  for (size_t begin = 0;;) {
    const size_t open = page.find("{{", begin), close = page.find("}}", open);
    out += page.substr(begin, open - begin);
    if (open == std::string_view::npos) return out;
    out += part(page.substr(open + 2, close - open - 2), parts, data);
    begin = close + 2;
  }
}

}  // namespace smoe
