#include "src/quantize/channel_search.h"

#include <algorithm>
#include <cmath>

#include "src/quantize/row_codes.h"

namespace nybble {

std::vector<float> spread_rows(MatrixView matrix, std::size_t count) {
  count = count == 0 ? matrix.rows : std::min(count, matrix.rows);
  std::vector<float> out;
  out.reserve(count * matrix.cols);
  for (std::size_t i = 0; i < count; ++i) {
    const float* row = matrix.row(spread_row(i, count, matrix.rows));
    out.insert(out.end(), row, row + matrix.cols);
  }
  return out;
}

std::vector<float> column_max_abs(MatrixView matrix) {
  std::vector<float> out(matrix.cols);
  for (std::size_t row = 0; row < matrix.rows; ++row) {
    for (std::size_t col = 0; col < matrix.cols; ++col) {
      out[col] = std::max(out[col], std::fabs(matrix.at(row, col)));
    }
  }
  return out;
}

std::vector<float> round_scaled(MatrixView weight, const AnyFormat& format,
                                std::span<const float> scale, const ScaleSearch& search,
                                Executor& executor) {
  const std::size_t k = weight.cols;
  std::vector<float> out(weight.rows * k);
  executor.parallel_for(weight.rows, [&](std::size_t row) {
    for (std::size_t col = 0; col < k; ++col) {
      out[row * k + col] = weight.at(row, col) * (scale.empty() ? 1.0F : scale[col]);
    }
  });
  std::vector<float> importance;
  ScaleSearch scaled_search = search;
  if (search.importance != nullptr) {
    for (std::size_t col = 0; col < k; ++col) {
      const float by = scale.empty() ? 1.0F : scale[col];
      importance.push_back(search.importance[col] / (by * by));
    }
    scaled_search.importance = importance.data();
  }
  RowCodes rows = round_rows({out.data(), weight.rows, k}, format, scaled_search, executor);
  nest_scales(rows);
  executor.parallel_for(weight.rows, [&](std::size_t row) {
    for (std::size_t col = 0; col < k; ++col) {
      out[row * k + col] = rows.value(row, col) / (scale.empty() ? 1.0F : scale[col]);
    }
  });
  return out;
}

}  // namespace nybble
