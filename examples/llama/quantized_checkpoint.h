#pragma once

#include <filesystem>

#include "nybble/io/safetensors.h"
#include "quantized_weights.h"

namespace llama {

/// Whether a checkpoint is what QuantizedCheckpointWriter writes: linear layers as nybble's own
/// layout stores them (nybble/io/layer_writer.h), and __metadata__ that says nybble.format,
/// .method, .path and, for path a4, .activations.
bool is_quantized(const nybble::Checkpoint& checkpoint);

/// The quantized layers of the checkpoint in `directory`. Throws nybble::Error naming the tensor:
/// bad_file (missing, another type, values no layer can have), bad_shape; unsupported (of a later
/// version).
QuantizedWeights read_quantized(const std::filesystem::path& directory, const Config& config);

/// A folder that becomes a quantized checkpoint: nothing changes in it before finish().
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
