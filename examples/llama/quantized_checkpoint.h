#pragma once

#include <filesystem>

#include "nybble/io/safetensors.h"
#include "quantized_weights.h"

namespace llama {

/// A folder that becomes a quantized checkpoint: linear layers as nybble's own layout stores them
/// (nybble/io/layer_writer.h), and __metadata__ that says nybble.format, .method, .path and, for
/// path a4, .activations. Nothing changes in it before finish().
class QuantizedCheckpointWriter {
 public:
  /// Creates the folder, so that a place that cannot be written fails before the work. Throws io;
  /// bad_option where `directory` is the source or has shards of another checkpoint.
  QuantizedCheckpointWriter(const std::filesystem::path& directory,
                            const std::filesystem::path& source);
  /// Writes config.json and all tensors: those of `quantized`, the others as `checkpoint`, the
  /// source, stores them. Takes the layers out of `quantized` one by one, so that they are not in
  /// memory twice. Throws io.
  void finish(const nybble::Checkpoint& checkpoint, QuantizedWeights& quantized);

 private:
  std::filesystem::path directory_, source_;
  nybble::SafetensorsWriter writer_;
};

}  // namespace llama
