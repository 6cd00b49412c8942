// What smoe analyze says of its traces, as JSON and as a table.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

#include "smoe/base/build_info.h"
#include "smoe/base/error.h"
#include "smoe/base/quote.h"
#include "smoe/study/analyze.h"
#include "smoe/study/trace_statistics.h"

namespace smoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kDropBuckets = 32;

Json to_json(const Information& information) {
  return {{"bits", information.bits}, {"entropy", information.entropy}, {"shuffled", information.shuffled}};
}

Json to_json(const std::vector<DropBucket>& buckets) {
  Json rows = Json::array();
  for (const DropBucket& bucket : buckets) {
    rows.push_back(
        {{"first", bucket.first}, {"last", bucket.last}, {"assigned", bucket.assigned}, {"dropped", bucket.dropped}});
  }
  return rows;
}

double per_token(int64_t count, int64_t tokens) {
  return tokens > 0 ? static_cast<double>(count) / static_cast<double>(tokens) : 0;
}

/// The classes that the text has.
Json classes_json(const std::array<ClassUse, kTokenClasses>& uses) {
  Json rows = Json::array();
  for (size_t i = 0; i < uses.size(); ++i) {
    if (uses[i].tokens == 0) continue;
    rows.push_back({{"class", kTokenClassNames[i]},
                    {"tokens", uses[i].tokens},
                    {"experts", per_token(uses[i].computed, uses[i].tokens)},
                    {"networks", per_token(uses[i].networks, uses[i].tokens)}});
  }
  return rows;
}

/// A matrix of n rows, numbers of four digits: what a map can show.
template <class Number>
Json matrix(const std::vector<Number>& values, int64_t rows) {
  Json out = Json::array();
  const int64_t columns = std::ssize(values) / rows;
  for (int64_t row = 0; row < rows; ++row) {
    Json line = Json::array();
    for (int64_t column = 0; column < columns; ++column) {
      const auto value = static_cast<double>(values[static_cast<size_t>(row * columns + column)]);
      line.push_back(std::round(value * 1e4) / 1e4);
    }
    out.push_back(line);
  }
  return out;
}

Json redundancy_json(const TraceLayer& layer) {
  const std::optional<Redundancy> found = redundancy(layer);
  if (!found) return nullptr;
  const int64_t networks = std::count(layer.network.begin(), layer.network.end(), 1);
  return {{"networks", networks},        {"mean", found->mean},
          {"largest", found->largest},   {"pair", {found->first, found->second}},
          {"distinct", found->distinct}, {"cosine", matrix(layer.similarity, networks)}};
}

Json affinity_json(const RoutingTrace& trace, size_t place) {
  if (place + 1 == trace.layers.size()) return nullptr;
  const TraceLayer &layer = trace.layers[place], &next = trace.layers[place + 1];
  const Affinity affinity = next_layer_affinity(layer, next, trace.tokens());
  return {{"next", next.layer},
          {"information", to_json(affinity.information)},
          {"follows", matrix(affinity.follows, layer.experts())}};
}

Json layer_json(const RoutingTrace& trace, size_t place) {
  const TraceLayer& layer = trace.layers[place];
  const std::array<ClassUse, kTokenClasses> uses = use_by_class(trace, layer);
  int64_t computed = 0, networks = 0;
  for (const ClassUse& use : uses) {
    computed += use.computed;
    networks += use.networks;
  }
  const auto assigned = std::count_if(layer.expert.begin(), layer.expert.end(), [](int32_t id) { return id >= 0; });
  return {{"layer", layer.layer},
          {"experts", layer.experts()},
          {"experts_per_token", per_token(computed, trace.tokens())},
          {"networks_per_token", per_token(networks, trace.tokens())},
          {"dropped", per_token(assigned - computed, assigned)},
          {"load", load_of(layer)},
          {"token_information", to_json(token_information(trace, layer))},
          {"classes", classes_json(uses)},
          {"drops",
           {{"row", to_json(drops_by_place(trace, layer, DropPlace::kRow, kDropBuckets))},
            {"forward", to_json(drops_by_place(trace, layer, DropPlace::kForward, kDropBuckets))}}},
          {"redundancy", redundancy_json(layer)},
          {"affinity", affinity_json(trace, place)}};
}

Json trace_json(const NamedTrace& named) {
  Json json{{"name", valid_utf8(named.name)}, {"model", valid_utf8(named.trace.model)}, {"step", named.trace.step},
            {"setting", named.trace.setting}, {"tokens", named.trace.tokens()},         {"layers", Json::array()}};
  for (size_t i = 0; i < named.trace.layers.size(); ++i) json["layers"].push_back(layer_json(named.trace, i));
  return json;
}

Json agreement_json(const NamedTrace& a, const NamedTrace& b) {
  const std::string reason = why_incomparable(a.trace, b.trace);
  Json json{{"first", valid_utf8(a.name)}, {"second", valid_utf8(b.name)}, {"layers", Json::array()}};
  json["reason"] = reason.empty() ? Json(nullptr) : Json(reason);
  for (size_t i = 0; reason.empty() && i < a.trace.layers.size(); ++i) {
    const std::optional<Agreement> found = agreement(a.trace.layers[i], b.trace.layers[i]);
    json["layers"].push_back({{"layer", a.trace.layers[i].layer},
                              {"overlap", found ? Json(found->overlap) : Json(nullptr)},
                              {"chance", found ? Json(found->chance) : Json(nullptr)}});
  }
  return json;
}

std::string formatted(const char* format, const Json& number) {
  if (number.is_null()) return "-";
  char text[64];
  std::snprintf(text, sizeof text, format, number.get<double>());
  return text;
}

std::string layer_line(const Json& layer) {
  const Json none = nullptr;
  const Json &tokens = layer["token_information"], &alike = layer["redundancy"], &affinity = layer["affinity"];
  const Json& follows = affinity.is_null() ? none : affinity["information"];
  char text[320];
  std::snprintf(text, sizeof text, "%5lld %7lld %9s %8s  %5s of %-5s (%5s)  %6s %8s  %5s of %-5s (%5s)\n",
                layer["layer"].get<long long>(), layer["experts"].get<long long>(),
                formatted("%.2f", layer["experts_per_token"]).c_str(),
                formatted("%.2f%%", Json(100 * layer["dropped"].get<double>())).c_str(),
                formatted("%.3f", tokens["bits"]).c_str(), formatted("%.3f", tokens["entropy"]).c_str(),
                formatted("%.3f", tokens["shuffled"]).c_str(),
                formatted("%.3f", alike.is_null() ? none : alike["mean"]).c_str(),
                formatted("%.2f", alike.is_null() ? none : alike["distinct"]).c_str(),
                formatted("%.3f", follows.is_null() ? none : follows["bits"]).c_str(),
                formatted("%.3f", follows.is_null() ? none : follows["entropy"]).c_str(),
                formatted("%.3f", follows.is_null() ? none : follows["shuffled"]).c_str());
  return text;
}

/// Experts a token by class, a mean over the layers.
std::string class_lines(const Json& trace) {
  std::string out = "  experts (networks) a token: ";
  const Json& layers = trace["layers"];
  for (size_t i = 0; i < layers[0]["classes"].size(); ++i) {
    double experts = 0, networks = 0;
    for (const Json& layer : layers) {
      experts += layer["classes"][i]["experts"].get<double>() / static_cast<double>(layers.size());
      networks += layer["classes"][i]["networks"].get<double>() / static_cast<double>(layers.size());
    }
    char text[128];
    std::snprintf(text, sizeof text, "%s%s %.2f (%.2f)", i == 0 ? "" : ", ",
                  layers[0]["classes"][i]["class"].get<std::string>().c_str(), experts, networks);
    out += text;
  }
  return out + "\n";
}

std::string agreement_line(const Json& pair) {
  std::string out =
      "\n" + printable(pair["first"].get<std::string>()) + " and " + printable(pair["second"].get<std::string>());
  if (!pair["reason"].is_null()) return out + ": not compared, " + pair["reason"].get<std::string>() + "\n";
  out += " agree (by chance):";
  for (const Json& layer : pair["layers"]) {
    out += concat("  ", layer["layer"].get<int64_t>(), ": ", formatted("%.3f", layer["overlap"]), " (",
                  formatted("%.3f", layer["chance"]), ")");
  }
  return out + "\n";
}

}  // namespace

Json analysis_data(const std::vector<NamedTrace>& traces) {
  require(!traces.empty(), "an analysis needs a model or a trace");
  std::set<std::string> names;
  for (const NamedTrace& named : traces) {
    require(names.insert(named.name).second, named.name, ": is named twice; an analysis shows a model once");
  }
  Json json{{"format", "smoe-analysis"}, {"version", 1}, {"smoe", kVersion}};
  json["traces"] = Json::array();
  json["agreement"] = Json::array();
  for (const NamedTrace& named : traces) json["traces"].push_back(trace_json(named));
  for (size_t i = 0; i < traces.size(); ++i) {
    for (size_t j = i + 1; j < traces.size(); ++j) json["agreement"].push_back(agreement_json(traces[i], traces[j]));
  }
  return json;
}

std::string analysis_table(const Json& data) {
  std::string out;
  for (const Json& trace : data["traces"]) {
    const std::string setting = trace["setting"].get<std::string>();
    out += concat(out.empty() ? "" : "\n", printable(trace["name"].get<std::string>()), ", step ",
                  trace["step"].get<int64_t>(), setting.empty() ? "" : ", " + printable(setting), ", ",
                  trace["tokens"].get<int64_t>(), " tokens\n");
    char head[160];
    std::snprintf(head, sizeof head, "%5s %7s %9s %8s  %-22s  %6s %8s  %s\n", "layer", "experts", "a token", "dropped",
                  "token tells, bits", "alike", "distinct", "next tells, bits");
    out += head;
    for (const Json& layer : trace["layers"]) out += layer_line(layer);
    out += class_lines(trace);
  }
  for (const Json& pair : data["agreement"]) out += agreement_line(pair);
  return out;
}

}  // namespace smoe
