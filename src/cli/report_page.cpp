#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "report.h"
#include "report_charts.h"
#include "report_text.h"
#include "svg.h"
#include "sweep_chart.h"

namespace nybble::cli {

namespace {

constexpr std::size_t kMostBars = 60;     ///< of layers; the table has all
constexpr std::size_t kMostOctaves = 24;  ///< rows of a distribution of scales
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

class Page {
 public:
  explicit Page(const Json& numbers) : numbers_(numbers) {}

  std::string run() {
    add_head();
    add_summary();
    add_layer_errors();
    add_sweeps();
    add_formats();
    add_times();
    add_layer_table();
    add_tensor_table();
    add("<footer>Made by nybble report. Every number here is in its JSON, too.</footer>\n</body>\n"
        "</html>\n");
    return std::move(html_);
  }

 private:
  template <class... Arguments>
  void add(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
    fmt::format_to(std::back_inserter(html_), text, std::forward<Arguments>(arguments)...);
  }

  [[nodiscard]] bool has_original() const { return numbers_["original"].is_string(); }
  [[nodiscard]] bool has_errors() const { return has_original() || numbers_["sqnr"].is_object(); }

  std::string next_id() { return fmt::format("chart{}", ++charts_); }

  void add_head() {
    const std::string title = escaped(numbers_["title"].get<std::string>());
    add("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
        "<title>{0}: nybble report</title>\n<style>{1}</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
        title, report_style());
    add("<p class=\"muted\">{}{}</p>\n", escaped(numbers_["path"].get<std::string>()),
        has_original() ? ", compared with " + escaped(numbers_["original"].get<std::string>())
                       : "");
  }

  void add_entry(const char* term, const std::string& value) {
    add("<dt>{}</dt><dd>{}</dd>\n", term, breakable(escaped(value)));
  }

  void add_summary() {
    const Json& totals = numbers_["totals"];
    const auto count = [&](const char* key) {
      return with_thousands(totals[key].get<std::size_t>());
    };
    add("<dl>\n");
    for (const Json& reason : numbers_["reasons"]) add_entry("layout", reason.get<std::string>());
    for (const Json& format : numbers_["formats"]) {
      add_entry("format", fmt::format("{}: {} layers, {} bits", format["format"].get<std::string>(),
                                      format["layers"].get<std::size_t>(),
                                      number(format["bits_per_weight"])));
    }
    add_entry("quantized", fmt::format("{} layers, {} weights, {} bits each", count("layers"),
                                       count("weights"), number(totals["bits_per_weight"])));
    add_entry("not quantized",
              fmt::format("{} tensors, {} values", count("tensors"), count("values")));
    add_entry("on disk", fmt::format("{:.1f} MB", totals["file_bytes"].get<double>() / 1e6));
    add_entry("NaN and Inf", fmt::format("{} and {}", count("nan"), count("inf")));
    if (const Json& sqnr = numbers_["sqnr"]; sqnr.is_object()) {
      add_entry("weight SQNR", fmt::format("median {} dB", decibels(sqnr["median_db"])));
      add_entry("worst layer", fmt::format("{} dB, {}", decibels(sqnr["lowest_db"]),
                                           sqnr["lowest_layer"].get<std::string>()));
    }
    add_run_summary();
    add("</dl>\n");
  }

  /// How quantizing went, where there are events that say so.
  void add_run_summary() {
    const Json& events = numbers_["events"];
    if (!events.is_object() || !events["done"].is_object()) return;
    const Json& done = events["done"];
    const auto value = [&](const char* key) {
      const auto found = done.find(key);
      return found != done.end() && found->is_number() ? found->get<double>() : kNan;
    };
    add_entry("time", fmt::format("{:.1f} s, {:.1f} MB/s", value("seconds"),
                                  value("bytes_per_second") / 1e6));
    add_entry("peak memory", fmt::format("{:.1f} MB", value("peak_bytes") / 1e6));
  }

  void add_times() {
    const Json& events = numbers_["events"];
    if (!events.is_object()) return;
    constexpr std::size_t kMostTimes = 20;
    std::vector<std::pair<double, std::string>> times;
    for (const Json& event : events["tensors"]) {
      const auto seconds = event.find("seconds");
      if (seconds == event.end() || !seconds->is_number()) continue;
      times.emplace_back(seconds->get<double>(), event["name"].get<std::string>());
    }
    if (times.empty()) return;
    std::sort(times.begin(), times.end(), std::greater<>());
    BarChart chart{next_id(),
                   "Seconds for each tensor",
                   fmt::format("The slowest took {:.3g} seconds.", times[0].first),
                   true,
                   {}};
    for (std::size_t i = 0; i < std::min(times.size(), kMostTimes); ++i) {
      chart.rows.push_back({times[i].second, times[i].first / std::max(times[0].first, 1e-9),
                            fmt::format("{:.3g} s", times[i].first)});
    }
    add("<h2>Time</h2>\n<p>The slowest of {} tensors.</p>\n", times.size());
    add_columns(chart);
  }

  /// Worst first: all layers, and what else is not what it was.
  void add_layer_errors() {
    if (!has_errors()) return;
    struct Bar {
      double sqnr;
      const Json* entry;
    };
    std::vector<Bar> bars;
    for (const char* kind : {"layers", "tensors"}) {
      for (const Json& entry : numbers_[kind]) {
        if (!entry["sqnr_db"].is_number()) continue;
        bars.push_back({entry["sqnr_db"].get<double>(), &entry});
      }
    }
    add("<h2>Error of each layer</h2>\n");
    if (bars.empty()) {
      add("<p>No layer differs from the original's.</p>\n");
      return;
    }
    std::stable_sort(bars.begin(), bars.end(),
                     [](const Bar& a, const Bar& b) { return a.sqnr < b.sqnr; });
    const double most = bars.back().sqnr;
    BarChart chart{next_id(), "SQNR of each layer's weights", "", true, {}};
    for (std::size_t i = 0; i < std::min(bars.size(), kMostBars); ++i) {
      chart.rows.push_back({(*bars[i].entry)["name"].get<std::string>(),
                            std::max(0.0, bars[i].sqnr) / std::max(most, 1e-9),
                            fmt::format("{:.2f} dB", bars[i].sqnr)});
    }
    chart.description = fmt::format("{} layers from {:.2f} dB, the worst, to {:.2f} dB.",
                                    bars.size(), bars.front().sqnr, most);
    add("<p>SQNR of the weights, {}, worst first: power of the original over power of the error. {}"
        "</p>\n",
        has_original() ? "compared with the original" : "measured while quantizing",
        bars.size() > kMostBars
            ? fmt::format("The worst {} of {}; the table below has all.", kMostBars, bars.size())
            : "");
    add_columns(chart);
  }

  /// A long chart as up to three side by side where there is room.
  void add_columns(const BarChart& chart) {
    constexpr std::size_t kRows = 20;
    add("<div class=\"charts columns\">\n");
    for (std::size_t begin = 0; begin < chart.rows.size(); begin += kRows) {
      BarChart part = chart;
      const auto first = chart.rows.begin() + static_cast<std::ptrdiff_t>(begin);
      part.rows.assign(
          first, first + static_cast<std::ptrdiff_t>(std::min(kRows, chart.rows.size() - begin)));
      if (begin != 0) part.id = next_id();
      add("<figure class=\"chart\">{}</figure>\n", draw(part));
    }
    add("</div>\n");
  }

  void add_sweeps() {
    // A chart for each format of activations.
    std::map<std::string, std::vector<const Json*>> by_activations;
    for (const Json& point : numbers_["sweeps"]) {
      const Json& activations = point["activations"];
      by_activations[activations.is_string() ? activations.get<std::string>() : ""].push_back(
          &point);
    }
    if (by_activations.empty()) return;
    add("<h2>Error against bits per weight</h2>\n<p>Output SQNR by format and method, from "
        "nybble sweep.</p>\n<div class=\"charts\">\n");
    for (const auto& [activations, points] : by_activations) {
      add("<figure class=\"chart\">{}</figure>\n", sweep_svg(activations, points));
    }
    add("</div>\n");
    add_sweep_table();
  }

  std::string sweep_svg(const std::string& activations, const std::vector<const Json*>& points) {
    SweepChart chart;
    chart.width = kReportWidth;
    chart.id = next_id();
    const auto index = [](std::vector<std::string>& names, const Json& name) {
      const auto found = std::find(names.begin(), names.end(), name.get<std::string>());
      if (found != names.end()) return static_cast<std::size_t>(found - names.begin());
      names.push_back(name.get<std::string>());
      return names.size() - 1;
    };
    std::size_t fewest = std::numeric_limits<std::size_t>::max();
    std::size_t most = 0;
    for (const Json* point : points) {
      if (index(chart.formats, (*point)["format"]) == chart.bits.size()) {
        chart.bits.push_back((*point)["bits_per_weight"].get<double>());
      }
      index(chart.methods, (*point)["method"]);
      const auto layers = (*point)["layers"].get<std::size_t>();
      fewest = std::min(fewest, layers);
      most = std::max(most, layers);
    }
    chart.sqnr_db.assign(chart.formats.size() * chart.methods.size(), kNan);
    for (const Json* point : points) {
      chart.sqnr_db[index(chart.formats, (*point)["format"]) * chart.methods.size() +
                    index(chart.methods, (*point)["method"])] = (*point)["sqnr_db"].get<double>();
    }
    chart.subtitle = most == 1        ? "One layer."
                     : fewest == most ? fmt::format("Mean of {} layers.", most)
                                      : fmt::format("Mean of {} to {} layers.", fewest, most);
    if (!activations.empty()) chart.subtitle += " Activations in " + activations + ".";
    chart.subtitle += " Higher is better.";
    return draw(chart);
  }

  void add_sweep_table() {
    std::vector<std::vector<std::string>> rows;
    for (const Json& point : numbers_["sweeps"]) {
      const Json& activations = point["activations"];
      rows.push_back({point["format"].get<std::string>(), point["method"].get<std::string>(),
                      decibels(point["sqnr_db"]), number(point["bits_per_weight"]),
                      fmt::format("{}", point["layers"].get<std::size_t>()),
                      activations.is_string() ? activations.get<std::string>() : "-"});
    }
    add_table("Error against bits per weight",
              {{"format", false},
               {"method", false},
               {"SQNR dB"},
               {"bits"},
               {"layers"},
               {"activations", false}},
              rows);
  }

  void add_formats() {
    if (numbers_["formats"].empty()) return;
    add("<h2>Codes and scales</h2>\n");
    for (const Json& format : numbers_["formats"]) {
      const std::string spec = format["format"].get<std::string>();
      add("<h3>{}</h3>\n<p>{} layers. {} of all codes are the largest or the smallest level.</p>\n"
          "<div class=\"charts\">\n",
          escaped(spec), format["layers"].get<std::size_t>(),
          percent(format["end_codes"].get<std::size_t>(), format["weights"].get<std::size_t>()));
      add_figure("Levels", "How often each of the 16 levels is used.", level_rows(format), spec);
      add_figure("Scales", "Groups by the power of two of their scale.",
                 octave_rows(format["scales"]), spec);
      if (format["zero_point"].get<bool>()) {
        std::vector<Row> rows;
        for (std::size_t i = 0; i < 16; ++i) {
          rows.push_back({fmt::format("{}", i), format["zero_points"][i].get<std::size_t>()});
        }
        add_figure("Zero points", "How often each zero point is used.", rows, spec);
      }
      add("</div>\n");
    }
  }

  struct Row {
    std::string label;
    std::size_t count;
  };

  static std::vector<Row> level_rows(const Json& format) {
    std::vector<std::pair<double, Row>> sorted;
    for (std::size_t code = 0; code < 16; ++code) {
      const double level = format["levels"][code].get<double>();
      sorted.push_back(
          {level, {fmt::format("{:.3g}", level), format["codes"][code].get<std::size_t>()}});
    }
    std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
      // -0 below 0
      return a.first != b.first ? a.first < b.first
                                : std::signbit(a.first) && !std::signbit(b.first);
    });
    std::vector<Row> out;
    for (auto& [level, row] : sorted) out.push_back(std::move(row));
    return out;
  }

  /// From the smallest to the largest, several powers of two a row where they are many.
  static std::vector<Row> octave_rows(const Json& scales) {
    std::map<int, std::size_t> counts;
    for (const auto& [octave, count] : scales["octaves"].items()) {
      counts[std::stoi(octave)] = count.get<std::size_t>();
    }
    std::vector<Row> out;
    if (scales["zero"].get<std::size_t>() != 0) {
      out.push_back({"0", scales["zero"].get<std::size_t>()});
    }
    if (counts.empty()) return out;
    const int low = counts.begin()->first;
    const int high = counts.rbegin()->first;
    const int step = (high - low) / static_cast<int>(kMostOctaves) + 1;
    for (int begin = low; begin <= high; begin += step) {
      std::size_t count = 0;
      for (int octave = begin; octave < begin + step; ++octave) {
        if (const auto found = counts.find(octave); found != counts.end()) count += found->second;
      }
      out.push_back({step == 1 ? fmt::format("2^{}", begin)
                               : fmt::format("2^{}..{}", begin, begin + step - 1),
                     count});
    }
    return out;
  }

  void add_figure(const char* title, const char* description, const std::vector<Row>& rows,
                  const std::string& spec) {
    std::size_t most = 1;
    std::size_t total = 0;
    for (const Row& row : rows) {
      most = std::max(most, row.count);
      total += row.count;
    }
    BarChart chart{next_id(), fmt::format("{} of {}", title, spec), description, false, {}};
    for (const Row& row : rows) {
      chart.rows.push_back({row.label, static_cast<double>(row.count) / static_cast<double>(most),
                            percent(row.count, total)});
    }
    add("<figure class=\"chart\"><figcaption>{}</figcaption>{}</figure>\n", description,
        draw(chart));
  }

  struct Column {
    const char* head;
    bool numeric = true;
  };

  /// Boxes that scroll are reachable without a mouse, and have a name.
  void add_table(const char* name, const std::vector<Column>& columns,
                 const std::vector<std::vector<std::string>>& rows) {
    add("<div class=\"scroll\" role=\"region\" aria-label=\"{}\" tabindex=\"0\">"
        "<table><thead><tr>",
        name);
    for (const Column& column : columns) {
      add("<th{} scope=\"col\">{}</th>", column.numeric ? "" : " class=\"text\"", column.head);
    }
    add("</tr></thead><tbody>\n");
    for (const std::vector<std::string>& row : rows) {
      add("<tr>");
      for (std::size_t i = 0; i < row.size(); ++i) {
        add("<td{}>{}</td>", columns[i].numeric ? "" : " class=\"text\"", escaped(row[i]));
      }
      add("</tr>\n");
    }
    add("</tbody></table></div>\n");
  }

  void add_layer_table() {
    if (numbers_["layers"].empty()) return;
    std::vector<std::vector<std::string>> rows;
    for (const Json& layer : numbers_["layers"]) {
      const Json& scales = layer["scales"];
      const auto codes = layer["codes"].get<std::vector<std::size_t>>();
      rows.push_back(
          {layer["name"].get<std::string>(), sqnr_text(layer), number(layer["bits_per_weight"]),
           number(layer["max_error"]), number(layer["cosine"]), number(scales["min"]),
           number(scales["max"]),
           percent(layer["end_codes"].get<std::size_t>(),
                   std::accumulate(codes.begin(), codes.end(), std::size_t{0})),
           fmt::format("{}, {}", scales["nan"].get<std::size_t>(),
                       scales["inf"].get<std::size_t>()),
           shape_of(layer), layer["format"].get<std::string>(), layer["layout"].get<std::string>(),
           fmt::format("{}",
                       fmt::join(layer["transforms"].get<std::vector<std::string>>(), ", "))});
    }
    add("<h2>Quantized layers</h2>\n");
    add_table("Quantized layers",
              {{"layer", false},
               {"SQNR dB"},
               {"bits"},
               {"max error"},
               {"cosine"},
               {"scale min"},
               {"scale max"},
               {"end codes"},
               {"NaN, Inf"},
               {"shape"},
               {"format", false},
               {"layout", false},
               {"transforms", false}},
              rows);
  }

  void add_tensor_table() {
    if (numbers_["tensors"].empty()) return;
    std::vector<std::vector<std::string>> rows;
    for (const Json& tensor : numbers_["tensors"]) {
      const Json& values = tensor["values"];
      std::vector<std::string> row = {tensor["name"].get<std::string>(), sqnr_text(tensor)};
      if (values.is_object()) {
        row.insert(row.end(), {number(values["min"]), number(values["max"]),
                               fmt::format("{}, {}", values["nan"].get<std::size_t>(),
                                           values["inf"].get<std::size_t>())});
      } else {
        row.insert(row.end(), {"-", "-", "-"});
      }
      row.insert(row.end(), {shape_of(tensor), tensor["type"].get<std::string>()});
      rows.push_back(std::move(row));
    }
    add("<h2>Other tensors</h2>\n");
    add_table("Other tensors",
              {{"tensor", false},
               {"SQNR dB"},
               {"min"},
               {"max"},
               {"NaN, Inf"},
               {"shape"},
               {"type", false}},
              rows);
  }

  const Json& numbers_;
  std::size_t charts_ = 0;
  std::string html_;
};

}  // namespace

std::string report_page(const Json& numbers) { return Page(numbers).run(); }

}  // namespace nybble::cli
