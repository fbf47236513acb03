#pragma once

#include <string>
#include <vector>

namespace nybble::cli {

/// What a sweep's chart shows.
struct SweepChart {
  std::string subtitle;
  std::vector<std::string> formats, methods;
  std::vector<double> bits;     ///< per weight, of each format
  std::vector<double> sqnr_db;  ///< formats x methods; what is not finite is not drawn
  double width = 440;           ///< hardly wider than a phone: text of 13 stays readable there
  std::string id = "sweep";     ///< unique in its page
};

/// An SVG of its own, no fonts or scripts from elsewhere, for light and dark backgrounds: SQNR
/// against bits per weight. Each format is a column at its bits, columns that would meet are moved
/// apart and tied to their place on the axis; a method is a colour and a shape.
std::string draw(const SweepChart& chart);

}  // namespace nybble::cli
