#pragma once

#include <string>
#include <vector>

namespace nybble::cli {

/// The width charts are drawn for: that of a phone, so that text is there as large as it says.
inline constexpr double kReportWidth = 358;

/// One horizontal bar a row. Colours come from the page's style: classes bar, track, ink, muted.
struct BarChart {
  std::string id;                  ///< unique in its page
  std::string title, description;  ///< for who does not see it
  bool labels_above = false;       ///< long names: a line of their own above the bar
  struct Row {
    std::string label;
    double share = 0;   ///< length, 0 to 1
    std::string value;  ///< written at its end
  };
  std::vector<Row> rows;
};

std::string draw(const BarChart& chart);

}  // namespace nybble::cli
