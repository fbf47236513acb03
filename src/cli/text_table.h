#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace nybble::cli {

/// Rows of text in columns as wide as their longest cell.
class TextTable {
 public:
  /// The first `left` columns are flush left, the others, numbers, flush right.
  TextTable(std::vector<std::string> head, std::size_t left);
  /// As many cells as the head has.
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;  ///< the head first
  std::size_t left_;
};

}  // namespace nybble::cli
