#pragma once

#include <cstddef>
#include <span>

#include "nybble/executor.h"
#include "nybble/tensor/quantized_matrix.h"

namespace nybble {

/// How far numbers are from others, accumulated in f64. NaN wherever a value that counts is NaN.
struct ErrorMetrics {
  double mse = 0;
  double relative_mse = 0;  ///< sum of squared errors / sum of squares; 0 for 0 / 0
  double sqnr_db = 0;       ///< -10 log10(relative_mse); Inf for no error
  double max_error = 0;
  double cosine = 0;  ///< 1 where both are all zero, 0 where one is
};

/// What quantizing cost.
struct QuantizationMetrics : ErrorMetrics {
  std::size_t clipped = 0;  ///< beyond the largest value of their group and sign
  std::size_t zeroed = 0;   ///< not 0, but became 0
};

/// Compares `x` with what it became. The result does not depend on the number of threads. Throws
/// bad_shape unless both have the same size, at least 1.
ErrorMetrics error_metrics(std::span<const float> x, std::span<const float> became,
                           Executor& executor);

/// Compares `x`, in the order of the rows of `matrix`, with what it decoded to.
QuantizationMetrics quantization_metrics(const QuantizedMatrix& matrix, std::span<const float> x,
                                         std::span<const float> decoded);

}  // namespace nybble
