#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "nybble/io/safetensors.h"
#include "quantized_weights.h"

namespace llama {

/// A checkpoint whose linear layers are 4-bit codes. A layer's NAME (".weight" included) is then
/// not a tensor itself but
///   NAME.codes          U8 [rows, padded columns / 2], as nybble::QuantizedMatrix has them
///   NAME.scales         [rows, groups] or, positive and negative, [rows, groups, 2], in the
///                       format's scale type; U8 where scales are codes themselves, and for
///                       e4m3x480
///   NAME.zero_points    U8 [rows, groups], formats with zero points only
///   NAME.nested_scales  F32 [blocks], NAME.nested_offset F32 [1], double quantization only
///   NAME.tensor_scale   F32 [2]: scale and largest value, formats with a tensor scale only
///   NAME.channel_scale  F32 [columns], NAME.permutation U32 [columns], NAME.hadamard_signs F32
///                       [columns]: what the layer's input goes through, where anything
/// and __metadata__ says nybble.version, .format, .method, .path, .activations (path a4), and
/// NAME.hadamard_block.
bool is_quantized(const nybble::Checkpoint& checkpoint);

/// The quantized layers of a checkpoint; `name` is for errors. Throws nybble::Error naming the
/// tensor: bad_file (missing, another type, values no layer can have), bad_shape; unsupported (of a
/// later version).
QuantizedWeights read_quantized(const nybble::Checkpoint& checkpoint, const Config& config,
                                const std::string& name);

/// A folder that becomes a quantized checkpoint: nothing changes in it before finish().
class QuantizedCheckpointWriter {
 public:
  /// Creates the folder, so that a place that cannot be written fails before the work. Throws io;
  /// bad_option where `directory` is the source or has shards of another checkpoint.
  QuantizedCheckpointWriter(const std::filesystem::path& directory,
                            const std::filesystem::path& source);
  /// Writes config.json and all tensors: those of `quantized`, the others as `checkpoint`, the
  /// source, stores them. Throws io; unsupported for layers with side branches.
  void finish(const nybble::Checkpoint& checkpoint, const QuantizedWeights& quantized);

 private:
  std::filesystem::path directory_, source_;
  nybble::SafetensorsWriter writer_;
};

}  // namespace llama
