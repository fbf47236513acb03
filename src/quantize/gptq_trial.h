#pragma once

#include <span>

#include "nybble/quantize/gptq.h"

namespace nybble {

struct DampingTrial {
  Damping damping;
  double error = 0;  ///< relative, of the output on held-out tokens
};

/// GPTQ of a few rows on three quarters of the tokens with each damping: the best on the rest. The
/// default damping and no error where nothing was held out.
DampingTrial try_dampings(MatrixView weight, const AnyFormat& format,
                          const Calibration& calibration, Executor& executor,
                          const GptqOptions& options, std::span<const Damping> tried);

}  // namespace nybble
