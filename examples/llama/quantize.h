#pragma once

#include <functional>
#include <memory>

#include "block.h"
#include "evaluate.h"
#include "nybble/quantize/method.h"
#include "quantized_weights.h"
#include "weights.h"

namespace llama {

/// A model as trained whose blocks come one at a time, so that no more than one needs memory.
struct BlockSource {
  const Config& config;
  const Tensor& embedding;
  std::function<BlockWeights(std::size_t)> block;
};

/// What linear layers become.
struct QuantizeSettings {
  nybble::AnyFormat format;
  std::shared_ptr<const nybble::Method> method;
  /// Calibrate on the inputs that layers have in the f32 model, not in the one quantized so far.
  bool full_precision_inputs = false;
};

/// Quantizes all linear layers, block by block and in the order in which they run. Inputs for
/// calibration come from `windows` (which methods without calibration do not need), computed with
/// the layers quantized so far, as `model` will run them. Memory: the windows' hidden states (twice
/// where the method needs the original inputs, too), one block, and the result. The same bytes for
/// any number of threads. Throws what nybble::quantize_layer throws; bad_option if the method needs
/// calibration and there is none.
QuantizedWeights quantize_weights(const BlockSource& source, const QuantizeSettings& settings,
                                  const ModelSettings& model, const Windows* windows,
                                  Executor& executor);

/// The same for weights already in memory.
std::shared_ptr<const QuantizedWeights> quantize_weights(const Weights& weights,
                                                         const QuantizeSettings& settings,
                                                         const ModelSettings& model,
                                                         const Windows* windows,
                                                         Executor& executor);

}  // namespace llama
