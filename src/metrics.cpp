#include "nybble/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace nybble {

namespace {

/// The largest and the smallest value of a group's 16 codes, NaN if the group is.
GroupRange reach(const QuantizedMatrix& matrix, std::size_t row, std::size_t group) {
  const GroupScale scale = matrix.scale(row, group);
  GroupRange out{-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};
  for (std::uint8_t code = 0; code < 16; ++code) {
    const float value = matrix.format.decode(code, scale, matrix.tensor);
    if (std::isnan(value)) return {value, value};
    out.max = std::max(out.max, value);
    out.min = std::min(out.min, value);
  }
  return out;
}

/// Elements further out than their group reaches, beyond float rounding. A NaN group has none.
std::size_t count_clipped(const QuantizedMatrix& matrix, std::span<const float> x) {
  constexpr double kRounding = 1 + 1e-6;
  std::size_t count = 0;
  for (std::size_t row = 0; row < matrix.rows; ++row) {
    for (std::size_t group = 0; group < matrix.groups; ++group) {
      const GroupRange range = reach(matrix, row, group);
      const double most = range.max * kRounding;
      const double least = range.min * kRounding;
      const std::size_t end = std::min(matrix.cols, (group + 1) * matrix.group);
      for (std::size_t col = group * matrix.group; col < end; ++col) {
        const double value = x[row * matrix.cols + col];
        if ((value > 0 && value > most) || (value < 0 && value < least)) ++count;
      }
    }
  }
  return count;
}

}  // namespace

QuantizationMetrics quantization_metrics(const QuantizedMatrix& matrix, std::span<const float> x,
                                         std::span<const float> decoded) {
  matrix.check();
  QuantizationMetrics out;
  double squared_error = 0;
  double squared_x = 0;
  double squared_decoded = 0;
  double product = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double from = x[i];
    const double to = decoded[i];
    const double error = std::fabs(from - to);
    squared_error += error * error;
    squared_x += from * from;
    squared_decoded += to * to;
    product += from * to;
    if (!(error <= out.max_error)) out.max_error = std::isnan(out.max_error) ? NAN : error;
    if (from != 0 && to == 0) ++out.zeroed;
  }
  out.mse = squared_error / static_cast<double>(x.size());
  out.relative_mse = squared_error == 0 ? 0 : squared_error / squared_x;
  out.sqnr_db = -10 * std::log10(out.relative_mse);
  out.cosine = product / std::sqrt(squared_x * squared_decoded);
  out.clipped = count_clipped(matrix, x);
  return out;
}

}  // namespace nybble
