#include "report_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "svg.h"

namespace nybble::cli {

namespace {

constexpr double kFont = 13;
constexpr double kBar = 12;        ///< height
constexpr double kRow = 21;        ///< from bar to bar, labels beside them
constexpr double kRowAbove = 38;   ///< labels above
constexpr double kValueRoom = 58;  ///< right of the longest bar
constexpr double kLongestLabel = 110;

/// The end of a name tells more than its beginning.
std::string shortened(const std::string& text, double room) {
  if (text_width(text, kFont) <= room) return text;
  const auto kept = static_cast<std::size_t>(std::max(1.0, room / text_width("x", kFont) - 1));
  std::size_t begin = text.size() - std::min(kept, text.size());
  // Not in the middle of a UTF-8 sequence.
  while (begin < text.size() && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) ++begin;
  return "\u2026" + text.substr(begin);
}

class Drawing {
 public:
  explicit Drawing(const BarChart& chart) : chart_(chart) {
    if (chart.labels_above) return;
    for (const BarChart::Row& row : chart.rows) {
      left_ = std::max(left_, text_width(row.label, kFont) + 8);
    }
    left_ = std::min(left_, kLongestLabel);
  }

  std::string run() {
    for (const BarChart::Row& row : chart_.rows) chart_.labels_above ? above(row) : beside(row);
    return fmt::format(
        R"(<svg viewBox="0 0 {} {:.0f}" role="img" aria-labelledby="{}-t {}-d" font-size="{}">)"
        R"(<title id="{}-t">{}</title><desc id="{}-d">{}</desc>{})"
        "</svg>\n",
        kReportWidth, y_ + 4, chart_.id, chart_.id, kFont, chart_.id, escaped(chart_.title),
        chart_.id, escaped(chart_.description), body_);
  }

 private:
  template <class... Arguments>
  void add(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
    body_ += '\n';
    fmt::format_to(std::back_inserter(body_), text, std::forward<Arguments>(arguments)...);
  }

  void bar(double x, double y, double room, double share) {
    // What is there shows, however little it is.
    const double length = share > 0 ? std::max(1.0, room * std::min(share, 1.0)) : 0;
    add(R"(<rect class="track" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="2"/>)", x, y,
        room, kBar);
    add(R"(<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="2"/>)", x, y,
        length, kBar);
  }

  void beside(const BarChart::Row& row) {
    add(R"(<text class="ink" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>)", left_ - 6,
        y_ + kBar + 2, escaped(shortened(row.label, left_ - 6)));
    bar(left_, y_ + 3, kReportWidth - left_ - kValueRoom, row.share);
    add(R"(<text class="muted" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>)", kReportWidth,
        y_ + kBar + 2, escaped(row.value));
    y_ += kRow;
  }

  void above(const BarChart::Row& row) {
    const double room = kReportWidth - text_width(row.value, kFont) - 12;
    add(R"(<g><title>{}: {}</title>)", escaped(row.label), escaped(row.value));
    add(R"(<text class="ink" x="0" y="{:.1f}">{}</text>)", y_ + 14,
        escaped(shortened(row.label, room)));
    add(R"(<text class="muted" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>)", kReportWidth,
        y_ + 14, escaped(row.value));
    bar(0, y_ + 19, kReportWidth, row.share);
    body_ += "</g>";
    y_ += kRowAbove;
  }

  const BarChart& chart_;
  double left_ = 0;  ///< where bars begin
  double y_ = 0;     ///< where the next row begins
  std::string body_;
};

}  // namespace

std::string draw(const BarChart& chart) { return Drawing(chart).run(); }

}  // namespace nybble::cli
