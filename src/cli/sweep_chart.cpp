#include "sweep_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <numeric>
#include <utility>

#include "svg.h"

namespace nybble::cli {

namespace {

constexpr double kLeft = 40;
constexpr double kPlotHeight = 300;
constexpr double kFont = 13;
constexpr double kHeadFont = 15;
constexpr double kLine = 18;         ///< from one line of text to the next
constexpr double kTie = 22;          ///< height of the ties from the axis to the columns
constexpr double kSmallestGap = 24;  ///< from column to column, where there is room
constexpr double kMethodOffset = 4;  ///< so that equal results of two methods are both seen

/// Positions moved as little as possible so that neighbours are `gap` apart, between `low` and
/// `high`. `wanted` ascends.
std::vector<double> moved_apart(const std::vector<double>& wanted, double gap, double low,
                                double high) {
  // Without the gaps: the closest ascending sequence, each run that pushes is at its mean.
  struct Run {
    double sum;
    std::size_t count;
    [[nodiscard]] double mean() const { return sum / static_cast<double>(count); }
  };
  std::vector<Run> runs;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    Run run{wanted[i] - gap * static_cast<double>(i), 1};
    while (!runs.empty() && runs.back().mean() >= run.mean()) {
      run.sum += runs.back().sum;
      run.count += runs.back().count;
      runs.pop_back();
    }
    runs.push_back(run);
  }
  const double last = high - gap * static_cast<double>(wanted.size() - 1);
  std::vector<double> out;
  for (const Run& run : runs) {
    for (std::size_t i = 0; i < run.count; ++i) {
      out.push_back(std::clamp(run.mean(), low, std::max(low, last)) +
                    gap * static_cast<double>(out.size()));
    }
  }
  return out;
}

class Drawing {
 public:
  explicit Drawing(const SweepChart& chart)
      : chart_(chart), right_(chart.width - 16), bits_(chart.bits), sqnr_(chart.sqnr_db) {
    const double margin = std::max(0.4, 0.06 * (sqnr_.high - sqnr_.low));
    sqnr_.low -= margin;
    sqnr_.high += margin;
    place_columns();
  }

  std::string run() {
    draw_head();
    draw_legend();
    draw_bits_axis();
    draw_sqnr_axis();
    draw_columns();
    for (std::size_t method = 0; method < chart_.methods.size(); ++method) draw_points(method);
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1:.0f}\" "
        "viewBox=\"0 0 {0} {1:.0f}\" font-family=\"system-ui, sans-serif\" font-size=\"{2}\" "
        "role=\"img\" aria-labelledby=\"{4}-title {4}-description\">\n{3}</svg>\n",
        chart_.width, height_, kFont, body_, chart_.id);
  }

 private:
  void place_columns() {
    const std::size_t count = chart_.formats.size();
    order_.resize(count);
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::stable_sort(order_.begin(), order_.end(),
                     [&](std::size_t a, std::size_t b) { return chart_.bits[a] < chart_.bits[b]; });
    std::vector<double> wanted;
    for (const std::size_t format : order_) wanted.push_back(x_of(chart_.bits[format]));
    const auto methods = static_cast<double>(chart_.methods.size());
    const double gap = std::min(std::max(kSmallestGap, kMethodOffset * methods + 8),
                                (right_ - kLeft) / static_cast<double>(count));
    offset_ = std::min(kMethodOffset, (gap - 8) / methods);
    const std::vector<double> placed = moved_apart(wanted, gap, kLeft + gap / 2, right_ - gap / 2);
    column_.resize(count);
    for (std::size_t i = 0; i < count; ++i) column_[order_[i]] = placed[i];
  }

  [[nodiscard]] double x_of(double bits) const {
    constexpr double kInset = 24;
    return kLeft + kInset + (right_ - kLeft - 2 * kInset) * bits_.at(bits);
  }
  [[nodiscard]] double y_of(double sqnr) const { return bottom_ - kPlotHeight * sqnr_.at(sqnr); }

  template <class... Arguments>
  void add(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
    fmt::format_to(std::back_inserter(body_), text, std::forward<Arguments>(arguments)...);
    body_ += '\n';
  }

  void draw_head() {
    add(R"(<title id="{}-title">Output SQNR against bits per weight</title>)", chart_.id);
    add(R"(<desc id="{}-description">{} formats, each at its bits per weight, by {} methods. {}</desc>)",
        chart_.id, chart_.formats.size(), chart_.methods.size(), escaped(chart_.subtitle));
    next_ = 24 - kLine;
    for (const std::string& line :
         wrapped("Output SQNR in dB against bits per weight", kHeadFont, chart_.width - 24)) {
      next_ += kLine;
      add(R"(<text x="12" y="{:.1f}" font-size="{}" font-weight="bold" fill="{}">{}</text>)", next_,
          kHeadFont, kGrey, line);
    }
    std::string subtitle = chart_.subtitle;
    if (!std::all_of(chart_.sqnr_db.begin(), chart_.sqnr_db.end(),
                     [](double value) { return std::isfinite(value); })) {
      subtitle += " Not drawn: what is not finite.";
    }
    for (const std::string& line : wrapped(subtitle, kFont, chart_.width - 24)) {
      next_ += kLine;
      add(R"(<text x="12" y="{:.1f}" fill="{}">{}</text>)", next_, kGrey, escaped(line));
    }
  }

  void draw_legend() {
    constexpr double kMarker = 14;
    constexpr double kBetween = 18;
    double x = 12;
    next_ += kLine + 8;
    for (std::size_t method = 0; method < chart_.methods.size(); ++method) {
      const double width = kMarker + text_width(chart_.methods[method], kFont);
      if (x > 12 && x + width > chart_.width - 12) {
        x = 12;
        next_ += kLine + 2;
      }
      add(R"(<g fill="{}">{}<text x="{:.1f}" y="{:.1f}">{}</text></g>)", series_colour(method),
          marker(method, x + 5, next_ - 4.5), x + kMarker, next_, escaped(chart_.methods[method]));
      x += width + kBetween;
    }
  }

  void draw_bits_axis() {
    next_ += kLine + 14;
    add(R"(<g fill="{0}"><text x="{1:.1f}" y="{2:.1f}" text-anchor="middle">bits per weight</text>)",
        kGrey, (kLeft + right_) / 2, next_);
    next_ += kLine;
    const double axis = next_ + 10;
    double last_end = 0;
    for (const std::size_t format : order_) {
      const double x = x_of(chart_.bits[format]);
      // A label that would touch the one before it is left out.
      const std::string label = fmt::format("{:.4g}", chart_.bits[format]);
      const double half = text_width(label, kFont) / 2;
      if (x - half > last_end) {
        last_end = x + half + 2;
        add(R"(<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)", x, next_, label);
      }
      add(R"(<path d="M{0:.1f} {1:.1f}V{2:.1f}L{3:.1f} {4:.1f}" fill="none" stroke="{5}" )"
          R"(stroke-opacity="0.7"/>)",
          x, axis - 5, axis, column_[format], axis + kTie, kGrey);
    }
    add(R"(<path d="M{:.1f} {:.1f}H{:.1f}" stroke="{}"/></g>)", kLeft, axis, right_, kGrey);
    top_ = axis + kTie;
    bottom_ = top_ + kPlotHeight;
  }

  void draw_sqnr_axis() {
    add(R"(<g fill="{}" text-anchor="end">)", kGrey);
    for (const double tick : sqnr_.ticks()) {
      const double y = y_of(tick);
      add(R"(<text x="{:.1f}" y="{:.1f}">{:g}</text>)", kLeft - 7, y + 4, tick);
      add(R"(<path d="M{:.1f} {:.1f}H{:.1f}" stroke="{}" stroke-opacity="0.25"/>)", kLeft, y,
          right_, kGrey);
    }
    add("</g>");
  }

  /// A line each, its format's name below it.
  void draw_columns() {
    double longest = 0;
    add(R"(<g fill="{}" text-anchor="end">)", kGrey);
    for (std::size_t format = 0; format < column_.size(); ++format) {
      const double x = column_[format];
      add(R"(<path d="M{:.1f} {:.1f}V{:.1f}" stroke="{}" stroke-opacity="0.7"/>)", x, top_, bottom_,
          kGrey);
      add(R"svg(<text transform="translate({:.1f} {:.1f}) rotate(-90)">{}</text>)svg", x + 4,
          bottom_ + 8, escaped(chart_.formats[format]));
      longest = std::max(longest, text_width(chart_.formats[format], kFont));
    }
    add("</g>");
    height_ = bottom_ + longest + 20;
  }

  void draw_points(std::size_t method) {
    const double offset = offset_ * (static_cast<double>(method) -
                                     (static_cast<double>(chart_.methods.size()) - 1) / 2);
    add(R"(<g fill="{}">)", series_colour(method));
    for (std::size_t format = 0; format < column_.size(); ++format) {
      const double value = chart_.sqnr_db[format * chart_.methods.size() + method];
      if (!std::isfinite(value)) continue;
      add("<g><title>{}, {}: {:.4g} bits, {:.2f} dB</title>{}</g>", escaped(chart_.formats[format]),
          escaped(chart_.methods[method]), chart_.bits[format], value,
          marker(method, column_[format] + offset, y_of(value)));
    }
    add("</g>");
  }

  const SweepChart& chart_;
  double right_;  ///< end of the plot
  Axis bits_, sqnr_;
  std::vector<std::size_t> order_;  ///< formats by bits
  std::vector<double> column_;      ///< x of each format
  double offset_ = 0;               ///< from one method's points to the next one's
  double next_ = 0;                 ///< base line of the last line of text
  double top_ = 0, bottom_ = 0, height_ = 0;
  std::string body_;
};

}  // namespace

std::string draw(const SweepChart& chart) { return Drawing(chart).run(); }

}  // namespace nybble::cli
