#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "nybble/executor.h"
#include "nybble/quantize/calibration.h"
#include "src/quantize/clip_training.h"

namespace nybble {

/// A layer's squared output error as a function of what its weights, times channel scales, were
/// rounded to, and of those scales, by which inputs are divided.
class LayerLoss {
 public:
  virtual ~LayerLoss() = default;
  /// `rounded` is N x K, `scale` K. `gradient` (N x K) becomes the loss's by `rounded`;
  /// to `scale_gradient` (K) is added that by the logarithms of the scales with `rounded` held.
  virtual double evaluate(MatrixView rounded, std::span<const float> scale,
                          MutableMatrixView gradient, std::span<float> scale_gradient) = 0;
  /// The loss for weights multiplied by `scale` (`scaled`, N x K), row by row.
  [[nodiscard]] virtual RowLoss at(MatrixView scaled, std::span<const float> scale) = 0;
  /// The squared outputs.
  [[nodiscard]] virtual double whole() const = 0;
};

/// Over the tokens of a second moment, inputs as they are. `weight` (N x K) must outlive it.
std::unique_ptr<LayerLoss> make_moment_loss(MatrixView weight, std::vector<float> moment,
                                            Executor& executor);

/// Over a sample of the inputs (M x K), which become `activations` after the division; gradients
/// pass straight through that. `weight` and `inputs` must outlive it.
std::unique_ptr<LayerLoss> make_sample_loss(MatrixView weight, MatrixView inputs,
                                            const AnyFormat& activations, Executor& executor);

/// out[col] += sign * the column's sum.
void add_column_sums(MatrixView values, float sign, std::span<float> out, Executor& executor);

}  // namespace nybble
