#include "sweep_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <numeric>
#include <string_view>
#include <utility>

namespace nybble::cli {

namespace {

// Hardly wider than a phone: text stays readable there.
constexpr double kWidth = 440;
constexpr double kLeft = 40;
constexpr double kRight = kWidth - 16;
constexpr double kPlotHeight = 300;
constexpr double kFont = 13;
constexpr double kLine = 18;         ///< from one line of text to the next
constexpr double kTie = 22;          ///< height of the ties from the axis to the columns
constexpr double kSmallestGap = 24;  ///< from column to column, where there is room
constexpr double kMethodOffset = 4;  ///< so that equal results of two methods are both seen

// Grey and colours that stand out from white as well as from black.
constexpr const char* kGrey = "#777d86";
constexpr const char* kColours[] = {"#2f81f7", "#d2691e", "#2da44e", "#a371f7",
                                    "#bf8700", "#db61a2", "#1b9e9e", "#e5534b"};

/// About how wide a text is; no two fonts agree.
double text_width(std::string_view text, double size) {
  return 0.6 * size * static_cast<double>(text.size());
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

/// Words in lines of at most the chart's width.
std::vector<std::string> wrapped(const std::string& text, double size) {
  std::vector<std::string> lines(1);
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (!lines.back().empty() && text_width(lines.back() + ' ' + word, size) > kWidth - 24) {
      lines.emplace_back();
    }
    lines.back() += (lines.back().empty() ? "" : " ") + word;
    begin = end + 1;
  }
  return lines;
}

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

struct Axis {
  double low, high;

  explicit Axis(const std::vector<double>& values)
      : low(std::numeric_limits<double>::infinity()), high(-low) {
    for (const double value : values) {
      if (!std::isfinite(value)) continue;
      low = std::min(low, value);
      high = std::max(high, value);
    }
    if (low > high) low = high = 0;
  }

  /// Where a value is, 0 to 1; the middle where there is only one.
  [[nodiscard]] double at(double value) const {
    return high > low ? (value - low) / (high - low) : 0.5;
  }

  /// Round numbers, about six of them.
  [[nodiscard]] std::vector<double> ticks() const {
    const double rough = (high - low) / 6;
    double step = std::pow(10, std::floor(std::log10(rough)));
    for (const double factor : {2.0, 2.5, 2.0}) {
      if (step < rough) step *= factor;
    }
    std::vector<double> out;
    for (double tick = std::ceil(low / step); tick * step <= high; ++tick) {
      out.push_back(tick * step);
    }
    return out;
  }
};

/// One of six shapes of about the same size around a point.
std::string marker(std::size_t shape, double x, double y) {
  switch (shape % 6) {
    case 0:
      return fmt::format(R"(<circle cx="{:.1f}" cy="{:.1f}" r="4.2"/>)", x, y);
    case 1:
      return fmt::format(R"(<path d="M{:.1f} {:.1f}h7.4v7.4h-7.4z"/>)", x - 3.7, y - 3.7);
    case 2:
      return fmt::format(R"(<path d="M{:.1f} {:.1f}l4.9 8.6h-9.8z"/>)", x, y - 5.4);
    case 3:
      return fmt::format(R"(<path d="M{:.1f} {:.1f}l5.4 5.4l-5.4 5.4l-5.4 -5.4z"/>)", x, y - 5.4);
    case 4:
      return fmt::format(R"(<path d="M{:.1f} {:.1f}l4.9 -8.6h-9.8z"/>)", x, y + 5.4);
    default:
      return fmt::format(R"(<path d="M{:.1f} {:.1f}h3v3.2h3.2v3h-3.2v3.2h-3v-3.2h-3.2v-3h3.2z"/>)",
                         x - 1.5, y - 4.7);
  }
}

class Drawing {
 public:
  explicit Drawing(const SweepChart& chart)
      : chart_(chart), bits_(chart.bits), sqnr_(chart.sqnr_db) {
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
        "role=\"img\">\n{3}</svg>\n",
        kWidth, height_, kFont, body_);
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
                                (kRight - kLeft) / static_cast<double>(count));
    offset_ = std::min(kMethodOffset, (gap - 8) / methods);
    const std::vector<double> placed = moved_apart(wanted, gap, kLeft + gap / 2, kRight - gap / 2);
    column_.resize(count);
    for (std::size_t i = 0; i < count; ++i) column_[order_[i]] = placed[i];
  }

  [[nodiscard]] double x_of(double bits) const {
    constexpr double kInset = 24;
    return kLeft + kInset + (kRight - kLeft - 2 * kInset) * bits_.at(bits);
  }
  [[nodiscard]] double y_of(double sqnr) const { return bottom_ - kPlotHeight * sqnr_.at(sqnr); }

  template <class... Arguments>
  void add(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
    fmt::format_to(std::back_inserter(body_), text, std::forward<Arguments>(arguments)...);
    body_ += '\n';
  }

  void draw_head() {
    add(R"(<title>Output SQNR against bits per weight</title>)");
    add(R"(<text x="12" y="24" font-size="15" font-weight="bold" fill="{}">)"
        "Output SQNR in dB against bits per weight</text>",
        kGrey);
    next_ = 24;
    std::string subtitle = chart_.subtitle;
    if (!std::all_of(chart_.sqnr_db.begin(), chart_.sqnr_db.end(),
                     [](double value) { return std::isfinite(value); })) {
      subtitle += " Not drawn: what is not finite.";
    }
    for (const std::string& line : wrapped(subtitle, kFont)) {
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
      if (x > 12 && x + width > kWidth - 12) {
        x = 12;
        next_ += kLine + 2;
      }
      add(R"(<g fill="{}">{}<text x="{:.1f}" y="{:.1f}">{}</text></g>)", colour_of(method),
          marker(method, x + 5, next_ - 4.5), x + kMarker, next_, escaped(chart_.methods[method]));
      x += width + kBetween;
    }
  }

  void draw_bits_axis() {
    next_ += kLine + 14;
    add(R"(<g fill="{0}"><text x="{1:.1f}" y="{2:.1f}" text-anchor="middle">bits per weight</text>)",
        kGrey, (kLeft + kRight) / 2, next_);
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
    add(R"(<path d="M{:.1f} {:.1f}H{:.1f}" stroke="{}"/></g>)", kLeft, axis, kRight, kGrey);
    top_ = axis + kTie;
    bottom_ = top_ + kPlotHeight;
  }

  void draw_sqnr_axis() {
    add(R"(<g fill="{}" text-anchor="end">)", kGrey);
    for (const double tick : sqnr_.ticks()) {
      const double y = y_of(tick);
      add(R"(<text x="{:.1f}" y="{:.1f}">{:g}</text>)", kLeft - 7, y + 4, tick);
      add(R"(<path d="M{:.1f} {:.1f}H{:.1f}" stroke="{}" stroke-opacity="0.25"/>)", kLeft, y,
          kRight, kGrey);
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
    add(R"(<g fill="{}">)", colour_of(method));
    for (std::size_t format = 0; format < column_.size(); ++format) {
      const double value = chart_.sqnr_db[format * chart_.methods.size() + method];
      if (!std::isfinite(value)) continue;
      add("<g><title>{}, {}: {:.4g} bits, {:.2f} dB</title>{}</g>", escaped(chart_.formats[format]),
          escaped(chart_.methods[method]), chart_.bits[format], value,
          marker(method, column_[format] + offset, y_of(value)));
    }
    add("</g>");
  }

  static const char* colour_of(std::size_t method) {
    return kColours[method % std::size(kColours)];
  }

  const SweepChart& chart_;
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
