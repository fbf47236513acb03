#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

#include "nybble/error.h"

namespace nybble {

/// A row-major view of f32 values: rows x cols, columns contiguous, `stride` elements from one row
/// to the next. For weights rows = N (outputs) and cols = K (inputs, the axis groups run along).
template <class T>
struct BasicMatrixView {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;

  constexpr BasicMatrixView() = default;
  constexpr BasicMatrixView(T* values, std::size_t row_count, std::size_t col_count)
      : data(values), rows(row_count), cols(col_count), stride(col_count) {}
  constexpr BasicMatrixView(T* values, std::size_t row_count, std::size_t col_count,
                            std::size_t row_stride)
      : data(values), rows(row_count), cols(col_count), stride(row_stride) {}

  [[nodiscard]] constexpr T* row(std::size_t index) const { return data + index * stride; }
  [[nodiscard]] constexpr T& at(std::size_t row_index, std::size_t col_index) const {
    return data[row_index * stride + col_index];
  }

  /// Every mutable view is a constant one.
  constexpr operator BasicMatrixView<const T>() const { return {data, rows, cols, stride}; }
};

using MatrixView = BasicMatrixView<const float>;
using MutableMatrixView = BasicMatrixView<float>;

/// Throws bad_shape unless the view's rows can be read: non-null, stride >= cols. There may be
/// none: a batch of no rows is no work.
template <class T>
void check_rows(const BasicMatrixView<T>& view, const std::string& name) {
  if (view.rows == 0) return;
  if (view.data == nullptr) throw Error(ErrorCode::bad_shape, name + ": null data");
  if (view.stride < view.cols) {
    throw Error(ErrorCode::bad_shape, name + ": stride " + std::to_string(view.stride) +
                                          " is less than its " + std::to_string(view.cols) +
                                          " columns");
  }
}

/// The same for what must have rows and columns.
template <class T>
void check_view(const BasicMatrixView<T>& view, const std::string& name) {
  if (view.rows == 0 || view.cols == 0) {
    throw Error(ErrorCode::bad_shape, name + ": shape " + std::to_string(view.rows) + " x " +
                                          std::to_string(view.cols) + ", expected at least 1 x 1");
  }
  check_rows(view, name);
}

/// Throws bad_value for the first Inf or NaN, row by row.
inline void check_finite(const MatrixView& view, const std::string& name) {
  for (std::size_t row = 0; row < view.rows; ++row) {
    for (std::size_t col = 0; col < view.cols; ++col) {
      const float value = view.at(row, col);
      // Not std::isfinite, which is always true where the compiler was told so.
      if ((std::bit_cast<std::uint32_t>(value) & 0x7F800000U) != 0x7F800000U) continue;
      throw Error(ErrorCode::bad_value, name + ": " + std::to_string(value) + " at [" +
                                            std::to_string(row) + ", " + std::to_string(col) +
                                            "], expected finite values");
    }
  }
}

}  // namespace nybble
