#include "nybble/quantize/error_correction.h"

#include <fmt/format.h>

#include "nybble/error.h"
#include "src/linalg/dense.h"
#include "src/quantize/hessian.h"

namespace nybble {

std::vector<float> correct_for_inputs(MatrixView weight, const Calibration& calibration,
                                      double alpha, Damping damping, Executor& executor,
                                      const std::string& name) {
  check_calibrated(weight, calibration, name);
  const MatrixView cross = calibration.cross_moment();
  if (cross.data == nullptr) {
    throw Error(
        ErrorCode::bad_option,
        fmt::format("{}: the calibration has no original inputs, expected some beside those "
                    "of quantized layers",
                    name));
  }
  if (!(alpha >= 0 && alpha <= 1)) {
    throw Error(ErrorCode::bad_option, fmt::format("{}: alpha {}, expected 0 to 1", name, alpha));
  }
  const std::size_t n = weight.rows;
  const std::size_t k = weight.cols;
  const std::vector<float> moment = calibration.second_moment();
  const OrderedHessian hessian =
      order_hessian({moment.data(), k, k}, damping, ColumnOrder::natural, k, executor, name);
  // The change alone, W (C - H) H^-1, so that nothing is lost where inputs hardly differ; H^-1 is
  // U^T U. Damping pulls towards no change.
  std::vector<float> difference(cross.data, cross.data + k * k);
  for (std::size_t i = 0; i < k * k; ++i) difference[i] -= moment[i];
  std::vector<float> a(n * k);
  std::vector<float> b(n * k);
  const MutableMatrixView first(a.data(), n, k);
  const MutableMatrixView second(b.data(), n, k);
  const MatrixView factor(hessian.factor.data(), k, k);
  linalg::multiply(weight, {difference.data(), k, k}, first, linalg::Update::assign, executor);
  linalg::multiply_transposed(first, factor, second, linalg::Update::assign, executor);
  linalg::multiply(second, factor, first, linalg::Update::assign, executor);
  for (std::size_t row = 0; row < n; ++row) {
    for (std::size_t col = 0; col < k; ++col) {
      a[row * k + col] = weight.at(row, col) + static_cast<float>(alpha) * a[row * k + col];
    }
  }
  return a;
}

}  // namespace nybble
