#pragma once

#include <optional>
#include <string>

#include "nybble/linear/linear.h"
#include "ops.h"
#include "weights.h"

namespace llama {

/// How the linear layers of the blocks are computed.
struct LinearSettings {
  std::optional<nybble::AnyFormat> format;  ///< none: f32, as trained
  nybble::LinearOptions options;            ///< path and target; only with a format
};

/// One linear layer: the f32 weights themselves, or a nybble::QuantizedLinear made of them.
class LinearLayer {
 public:
  /// Keeps a reference to `weights`. Throws what quantize_rtn and QuantizedLinear throw.
  LinearLayer(const LinearWeights& weights, const LinearSettings& settings, Executor& executor);

  [[nodiscard]] std::size_t rows() const { return weights_->weight.rows; }
  void run(MatrixView x, MutableMatrixView y, nybble::Workspace& workspace,
           Executor& executor) const;

  [[nodiscard]] std::size_t elements() const { return weights_->weight.values.size(); }
  /// Bits stored per weight, scales included.
  [[nodiscard]] double bits_per_weight() const { return bits_per_weight_; }
  [[nodiscard]] std::string kernel() const;

 private:
  const LinearWeights* weights_;
  std::optional<nybble::QuantizedLinear> quantized_;
  double bits_per_weight_ = 32;
};

}  // namespace llama
