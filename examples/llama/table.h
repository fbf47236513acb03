#pragma once

#include <string>
#include <vector>

namespace llama {

/// Text in columns, for terminals or as a GitHub table. The first `left` columns and the last are
/// aligned left, the numbers between them right.
class Table {
 public:
  Table(std::vector<std::string> header, std::size_t left) : left_(left) {
    rows_.push_back(std::move(header));
  }
  /// As many cells as the header has.
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::string markdown() const;

 private:
  [[nodiscard]] bool is_left(std::size_t column) const {
    return column < left_ || column + 1 == rows_[0].size();
  }
  /// Rows of padded cells, and the width of each column.
  [[nodiscard]] std::vector<std::vector<std::string>> padded(
      std::vector<std::size_t>& widths) const;

  std::size_t left_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace llama
