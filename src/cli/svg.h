#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

/// What the charts share that are written by hand as SVG.
namespace nybble::cli {

/// Stands out from white as well as from black.
inline constexpr const char* kGrey = "#777d86";
/// Of the series of that number; repeats after eight.
const char* series_colour(std::size_t series);
/// One of six shapes of about the same size around a point, for the same number.
std::string marker(std::size_t series, double x, double y);

/// A text for HTML, SVG and their attributes: markup is escaped, what XML has no character for is
/// replaced.
std::string escaped(std::string_view text);

/// About how wide a text is; no two fonts agree.
double text_width(std::string_view text, double size);

/// Words in lines of at most `width`.
std::vector<std::string> wrapped(const std::string& text, double size, double width);

/// The range of some numbers, those that are not finite left out.
struct Axis {
  double low, high;

  explicit Axis(const std::vector<double>& values);
  /// Where a value is, 0 to 1; the middle where there is only one.
  [[nodiscard]] double at(double value) const {
    return high > low ? (value - low) / (high - low) : 0.5;
  }
  /// Round numbers, about six of them.
  [[nodiscard]] std::vector<double> ticks() const;
};

}  // namespace nybble::cli
