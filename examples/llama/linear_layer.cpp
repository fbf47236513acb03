#include "linear_layer.h"

#include <utility>

namespace llama {

LinearLayer::LinearLayer(const LinearWeights& weights, const nybble::QuantizedLayer& layer,
                         const nybble::LinearOptions& options, Executor& executor)
    : weights_(&weights), bits_per_weight_(layer.weight.bits_per_element()) {
  nybble::Transforms transforms = layer.transforms;
  transforms.bias = weights.bias;
  quantized_.emplace(layer.weight, options, executor, std::move(transforms));
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
