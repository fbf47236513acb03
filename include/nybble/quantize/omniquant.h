#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "nybble/quantize/calibration.h"
#include "nybble/quantize/rtn.h"

namespace nybble {

struct OmniQuantOptions : QuantizeOptions {
  /// Where the training starts.
  enum class Start : std::uint8_t {
    search,     ///< scales with the least error weighted by the mean of x^2, the best alpha
    published,  ///< ranges times sigmoid(4) = 0.982, alpha 0.5
  };
  /// Whether channel scales are learned.
  enum class Let : std::uint8_t { automatic, off, on };  ///< automatic: where activations are given
  int epochs = 20;   ///< of kOmniQuantSteps steps on all of the calibration
  bool clip = true;  ///< LWC: learn what a group's largest and smallest value are clipped to
  Let let = Let::automatic;
  float clip_rate = 0.01F;    ///< Adam's, of the logarithms of the clip factors
  float scale_rate = 0.005F;  ///< of the logarithms of the channel scales
  Start start = Start::search;
  /// What activations become; none: they stay as they are.
  std::optional<AnyFormat> activations = std::nullopt;
  /// Fit on the three quarters of the tokens that are not held out.
  bool fit_part_only = false;
};

/// The reference steps once a sample, its recorded layers have 32; a step on all samples at once is
/// worth several of those.
inline constexpr int kOmniQuantSteps = 16;

struct OmniQuantResult {
  QuantizedMatrix matrix;
  /// K, > 0: weights were multiplied by it before they were rounded, inputs must be divided. Empty:
  /// none were learned.
  std::vector<float> scale;
  double alpha = 0;         ///< SmoothQuant's exponent, where the scales began
  double error_before = 0;  ///< of the output, relative: where the training began
  double error = 0;         ///< never more than that
};

/// OmniQuant (arXiv 2308.13137): learnable clipping of each group's range (LWC) and, together with
/// it, learnable channel scales (LET), for any format. Gradients pass straight through rounding, of
/// elements and of scales; the loss is the layer's squared output error: over all tokens from their
/// second moment, or, where activations are quantized, over the calibration's sample. The best
/// iterate is kept: of the scales, and with those of every row. Clip factors are learned as
/// logarithms, not through a sigmoid as published: steps are the same fraction of the scale
/// everywhere, and searched scales beyond the range (1.15 times) have a factor, too.
///
/// `weight` is N x K, `calibration` of K channels. The same bytes for any number of threads. Throws
/// bad_shape, bad_value (Inf or NaN), bad_option (no sample of the inputs where one is needed).
OmniQuantResult quantize_omniquant(MatrixView weight, const AnyFormat& format,
                                   const Calibration& calibration, Executor& executor,
                                   const OmniQuantOptions& options = {});

}  // namespace nybble
