#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <tuple>

#include "nybble/error.h"
#include "nybble/io/compare.h"
#include "nybble/io/mapped_file.h"
#include "report.h"

namespace nybble::cli {

namespace {

/// Errors by the name a layer or tensor has in the checkpoint.
using Errors = std::map<std::string, TensorDifference>;

Errors errors_of(const QuantizedCheckpoint& checkpoint, const std::string& original_path,
                 Executor& executor) {
  Errors out;
  if (original_path.empty()) return out;
  warn_ignored_index(original_path);
  const QuantizedCheckpoint original(original_path);
  for (const TensorPair& pair : pair_tensors(original, checkpoint)) {
    if (pair.b.kind == TensorPair::Side::Kind::missing) continue;
    out.emplace(pair.b.name, compare(original, checkpoint, pair, executor));
  }
  return out;
}

/// Adds "same_values", "sqnr_db", ... of that name; null where there is nothing to compare with.
void add_error(Json& json, const Errors& errors, const std::string& name) {
  const auto found = errors.find(name);
  const TensorDifference* difference = found == errors.end() ? nullptr : &found->second;
  const auto number = [&](double ErrorMetrics::*member) {
    return difference != nullptr && difference->error ? Json((*difference->error).*member) : Json();
  };
  json["same_values"] = difference == nullptr ? Json() : Json(difference->same_values);
  json["equal"] = difference == nullptr ? Json() : Json(difference->equal);
  json["sqnr_db"] = number(&ErrorMetrics::sqnr_db);
  json["max_error"] = number(&ErrorMetrics::max_error);
  json["cosine"] = number(&ErrorMetrics::cosine);
  json["mse"] = number(&ErrorMetrics::mse);
  const bool compared =
      difference != nullptr && difference->pair.a.kind != TensorPair::Side::Kind::missing;
  json["reason"] = compared && !difference->reason.empty() ? Json(difference->reason) : Json();
}

/// All layers of one format.
struct FormatNumbers {
  FormatInfo info;
  std::size_t layers = 0;
  double bits = 0;  ///< of all weights
  QuantizedStatistics statistics;
};

Json json_of(const FormatNumbers& format) {
  const std::size_t weights = format.statistics.elements();
  return {{"format", format.info.spec},
          {"layers", format.layers},
          {"weights", weights},
          {"bits_per_weight", format.bits / static_cast<double>(weights)},
          {"levels", format.info.levels},
          {"zero_point", format.info.layout == ScaleLayout::zero_point},
          {"codes", format.statistics.codes},
          {"end_codes", format.statistics.end_codes},
          {"zero_points", format.statistics.zero_points},
          {"scales", cli::json_of(format.statistics.scales)}};
}

/// Lowest, median and the name of the lowest SQNR of the layers that have one.
Json json_of_sqnr(const Json& layers) {
  std::vector<std::pair<double, std::string>> found;
  for (const Json& layer : layers) {
    const Json& sqnr = layer["sqnr_db"];
    if (sqnr.is_number() && std::isfinite(sqnr.get<double>())) {
      found.emplace_back(sqnr.get<double>(), layer["name"].get<std::string>());
    }
  }
  if (found.empty()) return {};
  std::sort(found.begin(), found.end());
  return {{"lowest_db", found.front().first},
          {"lowest_layer", found.front().second},
          {"median_db", found[found.size() / 2].first},
          {"layers", found.size()}};
}

Json parse_json(std::string_view text, const std::string& where) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& error) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: {}", where, error.what()));
  }
}

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

Json parse_json_file(const std::string& path) {
  const MappedFile file(path);
  return parse_json(text_of(file), path);
}

/// {"tensors": the events of tensors, "done": the last event or null}; null without a file.
Json event_numbers(const std::string& path) {
  if (path.empty()) return {};
  const MappedFile file(path);
  Json out = {{"tensors", Json::array()}, {"done", Json()}};
  std::size_t number = 0;
  for (std::string_view rest = text_of(file); !rest.empty();) {
    const std::size_t length = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, length);
    rest.remove_prefix(std::min(length + 1, rest.size()));
    const std::string where = fmt::format("{}: line {}", path, ++number);
    if (line.empty()) continue;
    Json event = parse_json(line, where);
    const auto kind = event.is_object() ? event.find("event") : event.end();
    if (!event.is_object() || kind == event.end() || !kind->is_string()) {
      throw Error(
          ErrorCode::bad_file,
          fmt::format("{}: no \"event\", expected what `nybble quantize --json` prints", where));
    }
    const bool named = event.contains("name") && event["name"].is_string();
    if (*kind == "done")
      out["done"] = std::move(event);
    else if (*kind == "tensor" && named)
      out["tensors"].push_back(std::move(event));
  }
  return out;
}

/// Where nothing was compared with the original, what was measured while quantizing.
void add_measured_errors(Json& layers, const Json& events) {
  if (!events.is_object()) return;
  std::map<std::string, Json> measured;
  for (const Json& event : events["tensors"]) {
    if (event.contains("weight_sqnr_db")) measured[event["name"]] = event["weight_sqnr_db"];
  }
  for (Json& layer : layers) {
    const auto found = measured.find(layer["name"].get<std::string>() + ".weight");
    if (found != measured.end() && found->second.is_number()) layer["sqnr_db"] = found->second;
  }
}

/// A member of a result of a sweep. Throws bad_file where it is not of that kind.
const Json& member(const Json& result, const char* key, bool number, const std::string& where) {
  const auto found = result.is_object() ? result.find(key) : result.end();
  if (!result.is_object() || found == result.end() ||
      !(number ? found->is_number() : found->is_string())) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: no {} \"{}\", expected what `nybble sweep "
                                                 "--out-json` writes",
                                                 where, number ? "number" : "text", key));
  }
  return *found;
}

/// Means over the layers of several sweeps.
struct SweepPoint {
  double bits = 0, sqnr_db = 0;
  std::size_t layers = 0;
};

/// What a result was measured on: test inputs, or else those of the calibration.
std::optional<double> output_sqnr_db(const Json& result) {
  for (const char* key : {"sqnr_test_db", "sqnr_calibration_db"}) {
    const auto found = result.find(key);
    if (found != result.end() && found->is_number()) return found->get<double>();
  }
  return std::nullopt;  // no error at all is null, too
}

Json sweep_numbers(const std::vector<std::string>& paths) {
  // By activations, format and method.
  std::map<std::tuple<std::string, std::string, std::string>, SweepPoint> points;
  for (const std::string& path : paths) {
    const Json sweep = parse_json_file(path);
    const auto results = sweep.is_object() ? sweep.find("results") : sweep.end();
    if (!sweep.is_object() || results == sweep.end() || !results->is_array()) {
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: no list \"results\", expected what `nybble sweep --out-json` "
                              "writes",
                              path));
    }
    const auto activations = sweep.find("activations");
    const std::string activation_format = activations != sweep.end() && activations->is_string()
                                              ? activations->get<std::string>()
                                              : "";
    for (std::size_t i = 0; i < results->size(); ++i) {
      const Json& result = (*results)[i];
      const std::string where = fmt::format("{}: results[{}]", path, i);
      const std::string format = member(result, "format", false, where).get<std::string>();
      const std::string method = member(result, "method", false, where).get<std::string>();
      const double bits = member(result, "bits_per_weight", true, where).get<double>();
      const std::optional<double> sqnr = output_sqnr_db(result);
      if (!sqnr) continue;
      SweepPoint& point = points[{activation_format, format, method}];
      point.bits += bits;
      point.sqnr_db += *sqnr;
      ++point.layers;
    }
  }
  Json out = Json::array();
  for (const auto& [key, point] : points) {
    const auto& [activations, format, method] = key;
    const auto layers = static_cast<double>(point.layers);
    out.push_back({{"activations", activations.empty() ? Json() : Json(activations)},
                   {"format", format},
                   {"method", method},
                   {"bits_per_weight", point.bits / layers},
                   {"sqnr_db", point.sqnr_db / layers},
                   {"layers", point.layers}});
  }
  return out;
}

/// The folder's name, or the file's.
std::string title_of(const std::string& path) {
  std::filesystem::path whole = std::filesystem::weakly_canonical(path);
  if (whole.filename().empty()) whole = whole.parent_path();
  return whole.filename().string();
}

}  // namespace

Json report_numbers(const ReportSources& sources, Executor& executor) {
  // Small files first: what is wrong with them shows before the work.
  Json sweeps = sweep_numbers(sources.sweeps);
  Json events = event_numbers(sources.events);
  warn_ignored_index(sources.checkpoint.path);
  const QuantizedCheckpoint checkpoint(sources.checkpoint.path, sources.checkpoint.layout);
  const Errors errors = errors_of(checkpoint, sources.original, executor);
  CheckpointTotals totals;
  totals.file_bytes = file_bytes(checkpoint);
  std::map<std::string, FormatNumbers> formats;
  Json layers = Json::array();
  for (const auto& entry : checkpoint.layers()) {
    const LayerNumbers layer = measure(checkpoint.read(entry.name), entry, executor);
    totals.add(layer);
    FormatNumbers& format = formats[layer.format.spec];
    format.info = layer.format;
    ++format.layers;
    format.bits += layer.bits_per_weight * static_cast<double>(layer.statistics.elements());
    format.statistics.merge(layer.statistics);
    layers.push_back(json_of(layer));
    add_error(layers.back(), errors, entry.name);
  }
  Json tensors = Json::array();
  for (const auto& entry : checkpoint.tensors()) {
    const TensorNumbers tensor = measure(checkpoint, entry, executor);
    totals.add(tensor);
    tensors.push_back(json_of(tensor));
    add_error(tensors.back(), errors, entry.name);
  }
  if (sources.original.empty()) add_measured_errors(layers, events);
  Json format_list = Json::array();
  for (const auto& [spec, format] : formats) format_list.push_back(json_of(format));
  Json out;
  out["title"] = title_of(sources.checkpoint.path);
  out["path"] = sources.checkpoint.path;
  out["original"] = sources.original.empty() ? Json() : Json(sources.original);
  out["reasons"] = checkpoint.reasons();
  out["totals"] = json_of(totals);
  out["sqnr"] = json_of_sqnr(layers);
  out["formats"] = std::move(format_list);
  out["layers"] = std::move(layers);
  out["tensors"] = std::move(tensors);
  out["sweeps"] = std::move(sweeps);
  out["events"] = std::move(events);
  return out;
}

}  // namespace nybble::cli
