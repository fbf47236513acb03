#include "src/tensor/separate.h"

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "nybble/error.h"

namespace nybble {

namespace {

/// The rows of a view as runs of addresses.
struct Runs {
  std::uintptr_t begin;
  std::size_t rows, width, step;  ///< width and step in bytes

  explicit Runs(MatrixView view)
      : begin(reinterpret_cast<std::uintptr_t>(view.data)),
        rows(view.rows),
        width(view.cols * sizeof(float)),
        step(view.stride * sizeof(float)) {}
  [[nodiscard]] std::uintptr_t row(std::size_t index) const { return begin + index * step; }
  [[nodiscard]] std::uintptr_t end() const { return row(rows - 1) + width; }
  /// Whether a row shares an address with [from, to).
  [[nodiscard]] bool meets(std::uintptr_t from, std::uintptr_t to) const {
    // The first row that ends behind `from`.
    const std::size_t first = begin + width > from ? 0 : (from - begin - width) / step + 1;
    return first < rows && row(first) < to;
  }
};

}  // namespace

void check_separate(MatrixView x, MatrixView y, const char* what) {
  if (x.rows == 0 || y.rows == 0) return;
  Runs a(x);
  Runs b(y);
  if (a.begin >= b.end() || b.begin >= a.end()) return;
  if (a.rows > b.rows) std::swap(a, b);
  for (std::size_t i = 0; i < a.rows; ++i) {
    if (!b.meets(a.row(i), a.row(i) + a.width)) continue;
    throw Error(
        ErrorCode::bad_shape,
        fmt::format("{} overlap in memory, expected none of one's elements in the other", what));
  }
}

}  // namespace nybble
