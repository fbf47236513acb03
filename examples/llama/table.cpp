#include "table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace llama {

std::vector<std::vector<std::string>> Table::padded(std::vector<std::size_t>& widths) const {
  widths.assign(rows_[0].size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::vector<std::vector<std::string>> out = rows_;
  for (auto& row : out) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      row[i] = is_left(i) ? fmt::format("{:<{}}", row[i], widths[i])
                          : fmt::format("{:>{}}", row[i], widths[i]);
    }
  }
  return out;
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  std::string out;
  for (const auto& row : padded(widths)) {
    std::string line = fmt::format("{}", fmt::join(row, "  "));
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  }
  return out;
}

std::string Table::markdown() const {
  std::vector<std::size_t> widths;
  std::string out;
  for (const auto& row : padded(widths)) {
    out += fmt::format("| {} |\n", fmt::join(row, " | "));
  }
  std::string rule = "|";
  for (std::size_t i = 0; i < widths.size(); ++i) {
    rule += ' ' + std::string(widths[i] - 1, '-') + (is_left(i) ? "-" : ":") + " |";
  }
  return out.insert(out.find('\n') + 1, rule + '\n');
}

}  // namespace llama
