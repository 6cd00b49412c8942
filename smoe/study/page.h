// A page of the tool: one HTML file with its data, its scripts and its style in it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace smoe {

/// What a page is made of.
struct PageParts {
  std::string_view verb;      ///< of the tool that makes it
  std::string title;          ///< any bytes; what is not UTF-8 is replaced
  std::string_view controls;  ///< HTML of its own settings
  std::string_view choice;    ///< what its checkboxes choose
  std::string_view script;    ///< draws it, after the scripts that all pages share
  int64_t refresh = 0;        ///< seconds after which it loads itself again; 0: never
};

/// The page around `data`: HTML that asks nothing of any network.
std::string make_page(const PageParts& parts, const nlohmann::ordered_json& data);

}  // namespace smoe
