#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config.h"
#include "nybble/format/format.h"
#include "nybble/linear/linear.h"
#include "nybble/quantize/method.h"

namespace llama {

/// The linear layers of a block, in the order in which they run.
enum LinearIndex : std::size_t { kQ, kK, kV, kO, kGate, kUp, kDown, kLinearCount };

/// "model.layers.0.self_attn.q_proj", to which ".weight" or ".bias" is added.
std::string linear_name(std::size_t block, LinearIndex index);
/// Outputs and inputs.
std::pair<std::size_t, std::size_t> linear_shape(const Config& config, LinearIndex index);

/// The linear layers of a model in 4 bits: what `quantize` makes, a checkpoint holds and Model
/// runs.
struct QuantizedWeights {
  nybble::AnyFormat format;  ///< of checkpoints that mix several: the first layer's
  std::string method;
  /// What it was made for, and runs with where nothing else is asked for.
  nybble::Path path = nybble::Path::a8;
  std::optional<nybble::AnyFormat> activations;
  /// By LinearIndex. None: that layer is not quantized.
  std::vector<std::vector<std::optional<nybble::QuantizedLayer>>> blocks;
  double seconds = 0;  ///< that making it took, calibration included; 0 if it was loaded
};

}  // namespace llama
