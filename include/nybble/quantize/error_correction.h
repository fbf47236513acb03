#pragma once

#include <vector>

#include "nybble/quantize/calibration.h"
#include "nybble/quantize/gptq.h"

namespace nybble {

/// The weights whose outputs for the inputs that earlier, quantized layers give are closest to the
/// original outputs for the original inputs (QEP, arXiv 2504.09629; GPTAQ, arXiv 2504.02692, does
/// the same column by column): (1 - alpha) W + alpha W C (X^T X + damping)^-1, C = original^T X. N
/// x K, to be quantized in the place of W. alpha from 0 (W itself) to 1 (least squares). Throws
/// bad_shape, bad_value, bad_option (alpha; a calibration without originals).
std::vector<float> correct_for_inputs(MatrixView weight, const Calibration& calibration,
                                      double alpha, Damping damping, Executor& executor,
                                      const std::string& name = "matrix");

}  // namespace nybble
