#include "linear_layer.h"

#include "nybble/quantize/rtn.h"

namespace llama {

LinearLayer::LinearLayer(const LinearWeights& weights, const LinearSettings& settings,
                         Executor& executor)
    : weights_(&weights) {
  if (!settings.format) return;
  const nybble::QuantizedMatrix matrix =
      nybble::quantize_rtn(weights.weight.view(), *settings.format, executor,
                           {.tensor_name = weights.weight.name, .propagate_nonfinite = false});
  bits_per_weight_ = matrix.bits_per_element();
  nybble::Transforms transforms;
  transforms.bias = weights.bias;
  quantized_.emplace(matrix, settings.options, executor, std::move(transforms));
}

void LinearLayer::run(MatrixView x, MutableMatrixView y, nybble::Workspace& workspace,
                      Executor& executor) const {
  if (quantized_) return quantized_->run(x, y, workspace, executor);
  matmul(x, weights_->weight.view(), y, executor);
  add_bias(y, weights_->bias, executor);
}

std::string LinearLayer::kernel() const {
  return quantized_ ? quantized_->kernel() : "plain loops";
}

}  // namespace llama
