#include "svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

namespace nybble::cli {

const char* series_colour(std::size_t series) {
  static constexpr const char* kColours[] = {"#2f81f7", "#d2691e", "#2da44e", "#a371f7",
                                             "#bf8700", "#db61a2", "#1b9e9e", "#e5534b"};
  return kColours[series % std::size(kColours)];
}

std::string marker(std::size_t series, double x, double y) {
  switch (series % 6) {
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

std::string escaped(std::string_view text) {
  // Through JSON, which replaces what is not UTF-8.
  const std::string valid = nlohmann::json::parse(
      nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  std::string out;
  for (const char c : valid) {
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
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? "\uFFFD" : std::string(1, c);
    }
  }
  return out;
}

double text_width(std::string_view text, double size) {
  return 0.6 * size * static_cast<double>(text.size());
}

std::vector<std::string> wrapped(const std::string& text, double size, double width) {
  std::vector<std::string> lines(1);
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (!lines.back().empty() && text_width(lines.back() + ' ' + word, size) > width) {
      lines.emplace_back();
    }
    lines.back() += (lines.back().empty() ? "" : " ") + word;
    begin = end + 1;
  }
  return lines;
}

Axis::Axis(const std::vector<double>& values)
    : low(std::numeric_limits<double>::infinity()), high(-low) {
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  if (low > high) low = high = 0;
}

std::vector<double> Axis::ticks() const {
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

}  // namespace nybble::cli
