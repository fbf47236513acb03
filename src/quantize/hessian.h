#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "nybble/executor.h"
#include "nybble/matrix.h"
#include "nybble/quantize/gptq.h"

namespace nybble {

/// H as quantizers walk along it: damped, its columns in the order in which they are rounded.
struct OrderedHessian {
  std::vector<std::uint32_t> order;  ///< K: the column that comes i-th
  std::vector<float> values;         ///< K x K
  std::vector<float> factor;         ///< the upper U with values^-1 = U^T U
  /// K, by column as stored: 1 / U_ii^2, what an error in the column costs once those after it have
  /// made up for it as well as they can. 0 for dead channels.
  std::vector<float> cost;
  std::vector<bool> dead;  ///< K, by column as stored
  Damping damping;
  int damping_raised = 0;
};

/// Of the moment X^T X (K x K). The damping is multiplied by 10 until H is positive definite;
/// throws bad_value if that does not help. group: of the format, for ColumnOrder::group_aware.
OrderedHessian order_hessian(MatrixView moment, Damping damping, ColumnOrder order,
                             std::size_t group, Executor& executor, const std::string& name);

/// Throws bad_shape, bad_value unless the weight is finite and the calibration has seen tokens of
/// as many channels as it has columns.
void check_calibrated(MatrixView weight, const Calibration& calibration, const std::string& name);

/// Sum over rows of e M e^T.
double quadratic_form(MatrixView errors, MatrixView moment, Executor& executor);

}  // namespace nybble
