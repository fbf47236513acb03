#include "nybble/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "nybble/error.h"

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

/// Sums over a run of values.
struct ErrorSums {
  double error = 0, x = 0, became = 0, product = 0, largest = 0;
};

ErrorSums sums_of(std::span<const float> x, std::span<const float> became) {
  ErrorSums out;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double from = x[i];
    const double to = became[i];
    const double error = std::fabs(from - to);
    out.error += error * error;
    out.x += from * from;
    out.became += to * to;
    out.product += from * to;
    if (!(error <= out.largest)) out.largest = std::isnan(out.largest) ? NAN : error;
  }
  return out;
}

double cosine_of(const ErrorSums& sums) {
  // A vector of zeros has no direction: it is like another one, and unlike everything else.
  if (sums.x == 0 && sums.became == 0) return 1;
  if (sums.x == 0 || sums.became == 0) return std::isnan(sums.product) ? NAN : 0;
  return sums.product / std::sqrt(sums.x * sums.became);
}

}  // namespace

ErrorMetrics error_metrics(std::span<const float> x, std::span<const float> became,
                           Executor& executor) {
  if (x.empty() || x.size() != became.size()) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("error metrics: {} values and {}, expected the same number, at least 1",
                            x.size(), became.size()));
  }
  // Sums of runs whose length depends on nothing, added in order.
  constexpr std::size_t kRun = std::size_t{1} << 16;
  std::vector<ErrorSums> runs((x.size() + kRun - 1) / kRun);
  executor.parallel_for(runs.size(), [&](std::size_t run) {
    const std::size_t begin = run * kRun;
    const std::size_t count = std::min(kRun, x.size() - begin);
    runs[run] = sums_of(x.subspan(begin, count), became.subspan(begin, count));
  });
  ErrorSums sums;
  for (const ErrorSums& run : runs) {
    sums.error += run.error;
    sums.x += run.x;
    sums.became += run.became;
    sums.product += run.product;
    if (!(run.largest <= sums.largest)) sums.largest = std::isnan(sums.largest) ? NAN : run.largest;
  }
  ErrorMetrics out;
  out.mse = sums.error / static_cast<double>(x.size());
  out.relative_mse = sums.error == 0 ? 0 : sums.error / sums.x;
  out.sqnr_db = -10 * std::log10(out.relative_mse);
  out.max_error = sums.largest;
  out.cosine = cosine_of(sums);
  return out;
}

QuantizationMetrics quantization_metrics(const QuantizedMatrix& matrix, std::span<const float> x,
                                         std::span<const float> decoded) {
  matrix.check();
  SerialExecutor serial;
  QuantizationMetrics out{error_metrics(x, decoded, serial)};
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i] != 0 && decoded[i] == 0) ++out.zeroed;
  }
  out.clipped = count_clipped(matrix, x);
  return out;
}

}  // namespace nybble
