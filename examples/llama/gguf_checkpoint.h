#pragma once

#include <filesystem>

#include "nybble/io/gguf.h"
#include "nybble/io/safetensors.h"
#include "quantized_weights.h"
#include "weights.h"

namespace llama {

/// A .gguf file in the names, keys and row order of llama.cpp: nothing appears before finish().
/// It has no tokenizer: that is not in the checkpoints this example reads.
class GgufCheckpointWriter {
 public:
  /// Throws io where the file cannot be written.
  explicit GgufCheckpointWriter(const std::filesystem::path& file) : writer_(file) {}
  /// Writes the model's shape, the layers of `quantized`, whose rows it reorders in place, and the
  /// other tensors of `checkpoint`, the source, as f32. Throws io; unsupported naming the layer for
  /// formats and transforms that GGUF does not have.
  void finish(const nybble::Checkpoint& checkpoint, const Config& config,
              QuantizedWeights& quantized);

 private:
  void set_keys(const Config& config);

  nybble::GgufWriter writer_;
};

}  // namespace llama
