#include "src/quantize/hessian.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "nybble/error.h"
#include "src/linalg/dense.h"

namespace nybble {

namespace {

std::vector<std::uint32_t> column_order(const std::vector<float>& diagonal, ColumnOrder order,
                                        std::size_t group) {
  std::vector<std::uint32_t> out(diagonal.size());
  std::iota(out.begin(), out.end(), 0U);
  if (order == ColumnOrder::natural) return out;
  std::vector<float> key(diagonal);
  if (order == ColumnOrder::group_aware) {
    for (std::size_t begin = 0; begin < key.size(); begin += group) {
      const std::size_t end = std::min(key.size(), begin + group);
      const auto first = key.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto last = key.begin() + static_cast<std::ptrdiff_t>(end);
      std::fill(first, last, *std::max_element(first, last));
    }
  }
  std::stable_sort(out.begin(), out.end(), [&](std::uint32_t a, std::uint32_t b) {
    if (order == ColumnOrder::group_aware && a / group != b / group) {
      return std::pair(-key[a], a / group) < std::pair(-key[b], b / group);
    }
    return diagonal[a] > diagonal[b];
  });
  return out;
}

}  // namespace

OrderedHessian order_hessian(MatrixView moment, Damping damping, ColumnOrder order,
                             std::size_t group, Executor& executor, const std::string& name) {
  const std::size_t k = moment.cols;
  OrderedHessian out;
  out.dead.resize(k);
  std::vector<float> diagonal(k);
  double sum = 0;
  std::size_t live = 0;
  for (std::size_t i = 0; i < k; ++i) {
    const float value = moment.at(i, i);
    out.dead[i] = !(value > 0);
    // As the reference: a dead channel's element is 1, also in the mean.
    diagonal[i] = out.dead[i] ? 1.0F : value;
    sum += static_cast<double>(diagonal[i]);
    live += out.dead[i] ? 0U : 1U;
  }
  if (live == 0) {
    throw Error(ErrorCode::bad_value,
                fmt::format("{}: calibration saw nothing but zeros, expected inputs", name));
  }
  const auto mean = static_cast<float>(sum / static_cast<double>(k));
  out.order = column_order(diagonal, order, group);
  out.values.resize(k * k);
  out.factor.resize(k * k);
  const auto fill = [&](const Damping& by) {
    executor.parallel_for(k, [&](std::size_t i) {
      const float* row = moment.row(out.order[i]);
      float* values = &out.values[i * k];
      for (std::size_t j = 0; j < k; ++j) values[j] = row[out.order[j]];
      const float element = diagonal[out.order[i]];
      values[i] = element + by.amount * (by.kind == Damping::Kind::mean ? mean : element);
      std::copy_n(values, k, &out.factor[i * k]);
    });
  };
  constexpr int kMostRaises = 8;
  for (;; ++out.damping_raised) {
    fill(damping);
    if (linalg::invert_to_upper_factor({out.factor.data(), k, k}, executor)) break;
    if (out.damping_raised == kMostRaises) {
      throw Error(
          ErrorCode::bad_value,
          fmt::format("{}: H is not positive definite even with damping {}", name, damping.amount));
    }
    damping.amount = damping.amount > 0 ? damping.amount * 10 : 1e-6F;
  }
  out.damping = damping;
  out.cost.resize(k);
  for (std::size_t i = 0; i < k; ++i) {
    const std::uint32_t column = out.order[i];
    const float u = out.factor[i * k + i];
    out.cost[column] = out.dead[column] ? 0.0F : 1 / (u * u);
  }
  return out;
}

void check_calibrated(MatrixView weight, const Calibration& calibration, const std::string& name) {
  check_view(weight, name);
  if (calibration.channels() != weight.cols) {
    throw Error(ErrorCode::bad_shape, fmt::format("{}: calibration has {} channels, expected {}",
                                                  name, calibration.channels(), weight.cols));
  }
  if (calibration.tokens() == 0) {
    throw Error(ErrorCode::bad_value, fmt::format("{}: calibration has seen no tokens", name));
  }
  check_finite(weight, name);
}

double quadratic_form(MatrixView errors, MatrixView moment, Executor& executor) {
  // Rows at a time, so that memory does not grow with them.
  constexpr std::size_t kRows = 512;
  double out = 0;
  for (std::size_t begin = 0; begin < errors.rows; begin += kRows) {
    const std::size_t rows = std::min(kRows, errors.rows - begin);
    const MatrixView some(errors.row(begin), rows, errors.cols, errors.stride);
    std::vector<float> product(rows * errors.cols);
    const MutableMatrixView by(product.data(), rows, errors.cols);
    linalg::multiply(some, moment, by, linalg::Update::assign, executor);
    std::vector<double> sums(rows);
    executor.parallel_for(rows, [&](std::size_t row) {
      double sum = 0;
      for (std::size_t i = 0; i < errors.cols; ++i) {
        sum += static_cast<double>(some.at(row, i)) * static_cast<double>(by.at(row, i));
      }
      sums[row] = sum;
    });
    out = std::accumulate(sums.begin(), sums.end(), out);
  }
  return out;
}

}  // namespace nybble
