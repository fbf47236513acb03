#pragma once

#include <cstddef>
#include <vector>

#include "nybble/quantize/calibration.h"
#include "nybble/quantize/rtn.h"

namespace nybble {

struct AwqOptions : QuantizeOptions {
  /// How a channel's scale follows from an exponent r in [0, 1).
  enum class Form : std::uint8_t {
    plain,  ///< mean|x|^r (llm-awq)
    duo,    ///< mean|x|^r / (mean(|w| / group's largest)^(1 - r) + 1e-4) (AutoAWQ's duo_scaling)
    best,   ///< both
  };
  Form form = Form::best;
  int grid = 20;  ///< exponents 0, 1/grid, 2/grid, ...
  /// Then around the best of them in steps a quarter as wide.
  bool refine = true;
  /// Judge each candidate with scales searched per group. false: round to nearest, as published.
  bool search_scales = true;
  /// Rows the candidates are judged on, evenly spread; 0 = all, as published.
  std::size_t rows = 256;
};

struct AwqResult {
  std::vector<float> scale;  ///< K, > 0: weights are multiplied by it, inputs divided
  AwqOptions::Form form = AwqOptions::Form::plain;
  double exponent = 0;
  double error_before = 0;  ///< of the output without scales, relative, on the rows judged
  double error = 0;         ///< with these
};

/// Activation-aware weight scaling (AWQ, arXiv 2306.00978): the channel scales with which `format`
/// leaves the least output error over the calibration tokens. All ones if none is better than none.
/// Throws bad_shape, bad_value, bad_option.
AwqResult search_awq_scale(MatrixView weight, const AnyFormat& format,
                           const Calibration& calibration, Executor& executor,
                           const AwqOptions& options = {});

}  // namespace nybble
