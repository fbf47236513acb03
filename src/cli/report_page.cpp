#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "report.h"
#include "report_charts.h"
#include "svg.h"
#include "sweep_chart.h"

namespace nybble::cli {

namespace {

constexpr std::size_t kMostBars = 60;     ///< of layers; the table has all
constexpr std::size_t kMostOctaves = 24;  ///< rows of a distribution of scales
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --page: #ffffff; --card: #f6f7f9; --ink: #1c2128; --muted: #59636e;
  --line: #d5dae0; --track: #e4e8ec; --bar: #1f6feb; }
@media (prefers-color-scheme: dark) { :root { --page: #12161b; --card: #1b2027; --ink: #e6eaef;
  --muted: #9aa4af; --line: #39414b; --track: #2a313a; --bar: #4d94ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
p, li, dd, dt { overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; }
.muted { color: var(--muted); fill: var(--muted); }
.ink { fill: var(--ink); }
.bar { fill: var(--bar); }
.track { fill: var(--track); }
svg { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif; }
.chart { max-width: 34rem; margin: 0; }
.chart [fill="#777d86"] { fill: var(--muted); }
.charts { display: grid; gap: 24px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem),
  1fr)); }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; margin: 0;
  border-top: 1px solid var(--line); max-width: 46rem; }
dt, dd { margin: 0; padding: 6px 8px 6px 0; border-bottom: 1px solid var(--line); }
dt { color: var(--muted); }
.columns { row-gap: 0; }
.scroll { overflow: auto; width: fit-content; max-width: 100%; max-height: 70vh; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--card); }
.text { text-align: left; }
footer { margin-top: 2rem; color: var(--muted); font-size: 14px; }
)";

/// A number of four digits; "-" for null.
std::string number(const Json& value) {
  return value.is_number() ? fmt::format("{:.4g}", value.get<double>()) : "-";
}

std::string decibels(const Json& value) {
  return value.is_number() ? fmt::format("{:.2f}", value.get<double>()) : "-";
}

/// SQNR of a layer or tensor: no error is infinite, and null in JSON.
std::string sqnr_text(const Json& entry) {
  const Json& same = entry["same_values"];
  return same.is_boolean() && same.get<bool>() ? "exact" : decibels(entry["sqnr_db"]);
}

std::string shape_of(const Json& entry) {
  return shape_text(entry["shape"].get<std::vector<std::size_t>>());
}

std::string with_thousands(std::size_t count) {
  std::string digits = fmt::format("{}", count);
  for (std::size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, "\u202F");
  return digits;
}

std::string percent(std::size_t part, std::size_t whole) {
  return whole == 0 ? "-"
                    : fmt::format("{:.1f} %",
                                  100 * static_cast<double>(part) / static_cast<double>(whole));
}

/// A name may be broken after its dots.
std::string breakable(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c;
    if (c == '.') out += "<wbr/>";
  }
  return out;
}

class Page {
 public:
  explicit Page(const Json& numbers) : numbers_(numbers) {}

  std::string run() {
    add_head();
    add_summary();
    add_layer_errors();
    add_sweeps();
    add_formats();
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

  [[nodiscard]] bool has_errors() const { return numbers_["original"].is_string(); }

  std::string next_id() { return fmt::format("chart{}", ++charts_); }

  void add_head() {
    const std::string title = escaped(numbers_["title"].get<std::string>());
    add("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
        "<title>{0}: nybble report</title>\n<style>{1}</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
        title, kStyle);
    add("<p class=\"muted\">{}{}</p>\n", escaped(numbers_["path"].get<std::string>()),
        has_errors() ? ", compared with " + escaped(numbers_["original"].get<std::string>()) : "");
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
    add("</dl>\n");
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
    add("<p>SQNR of the weights, worst first: power of the original over power of the error. {}"
        "</p>\n",
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
