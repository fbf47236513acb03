#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "nybble/quantize/calibration.h"
#include "nybble/quantize/rtn.h"

namespace nybble {

struct SmoothQuantOptions : QuantizeOptions {
  /// None: the best of 0, 0.05, ... 1 by the output error on the calibration's sample.
  std::optional<double> alpha = std::nullopt;
  /// What activations become; none: they stay as they are.
  std::optional<AnyFormat> activations = std::nullopt;
  std::size_t rows = 512;  ///< rows of the weight that alphas are judged on; 0 = all
};

struct SmoothQuantResult {
  std::vector<float> scale;  ///< K, > 0: weights are multiplied by it, inputs divided
  double alpha = 0;
  double error_before = 0;  ///< of the output without scales, relative, on the sample
  double error = 0;
};

/// SmoothQuant (arXiv 2211.10438): scale_j = max|x_j|^alpha / max|w_j|^(1 - alpha) moves range from
/// activations to weights. Throws bad_shape, bad_value, bad_option.
SmoothQuantResult search_smoothquant_scale(MatrixView weight, const AnyFormat& format,
                                           const Calibration& calibration, Executor& executor,
                                           const SmoothQuantOptions& options = {});

/// The published formula alone: max|x| of each channel, max|w| of each column.
std::vector<float> smoothquant_scale(std::span<const float> max_abs_input,
                                     std::span<const float> max_abs_weight, double alpha);

}  // namespace nybble
