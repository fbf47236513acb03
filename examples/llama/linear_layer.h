#pragma once

#include <optional>
#include <string>

#include "nybble/linear/linear.h"
#include "nybble/quantize/method.h"
#include "ops.h"
#include "weights.h"

namespace llama {

/// One linear layer: the f32 weights themselves, or a nybble::QuantizedLinear.
class LinearLayer {
 public:
  /// f32, as trained. Keeps a reference to `weights`.
  explicit LinearLayer(const LinearWeights& weights) : weights_(&weights) {}
  /// In 4 bits: `layer`, packed. Keeps a reference to `weights`. Throws what QuantizedLinear
  /// throws.
  LinearLayer(const LinearWeights& weights, const nybble::QuantizedLayer& layer,
              const nybble::LinearOptions& options, Executor& executor);

  [[nodiscard]] std::size_t rows() const { return weights_->weight.rows; }
  void run(MatrixView x, MutableMatrixView y, nybble::Workspace& workspace,
           Executor& executor) const;

  [[nodiscard]] std::size_t elements() const {
    return weights_->weight.rows * weights_->weight.cols;
  }
  /// Bits stored per weight, scales included.
  [[nodiscard]] double bits_per_weight() const { return bits_per_weight_; }
  [[nodiscard]] std::string kernel() const;

 private:
  const LinearWeights* weights_;
  std::optional<nybble::QuantizedLinear> quantized_;
  double bits_per_weight_ = 32;
};

}  // namespace llama
