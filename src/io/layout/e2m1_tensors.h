#pragma once

#include <cstddef>
#include <string>

#include "src/io/layout/stored_tensors.h"

/// What the layouts of MXFP4 and NVFP4 share. Their codes lie as canonical ones do (low nibble =
/// even k), so bytes are copied; what differs are names and the scale of the tensor.
namespace nybble::io {

/// Whether a format is E2M1 under one scale of `type` a `group` of K, whatever its family's name.
bool is_e2m1(const FormatInfo& info, ScaleType type, std::size_t group, bool tensor_scale);

/// How many groups a row of `cols` codes has. Throws bad_file, naming `packed`, for a broken one.
std::size_t whole_groups(const TensorSource& source, const TensorView& packed, std::size_t cols,
                         std::size_t group);

/// The codes and scales of a weight in canonical form: `packed` has rows * cols / 2 bytes, cols are
/// whole groups, and `scales` has one byte a group.
QuantizedMatrix e2m1_matrix(const char* format, std::size_t rows, std::size_t cols,
                            const TensorView& packed, const TensorView& scales);

/// Throws bad_file naming the place where an E4M3 block scale is negative or NaN.
void check_block_scales(const TensorSource& source, const TensorView& scales);
/// The same of a layer that is to be written: unsupported.
void check_block_scales(const StoredLayer& layer);
/// What E4M3 block scales say about a layout.
void judge_block_scales(const TensorSource& source, std::span<const Module> modules,
                        const char* suffix, Evidence& evidence);
/// What E8M0 scales say: weights have exponents not far from 0.
void judge_exponents(const TensorSource& source, std::span<const Module> modules,
                     const char* suffix, Evidence& evidence);
/// Adds to `evidence` where a tensor scale (f32 in module + suffix) is not what it usually is, as
/// those of the other convention are not: against the layout where all are.
void judge_tensor_scales(const TensorSource& source, std::span<const Module> modules,
                         const char* suffix, bool divisor, Evidence& evidence);

/// A tensor scale as a file has it: `stored` is what values are divided or multiplied by. Throws
/// bad_file where 1 / divisor leaves f32.
TensorScale tensor_scale_from(const TensorSource& source, const std::string& tensor, float stored,
                              bool divisor);
/// The number that a file of the other convention holds for a scale, so that reading it gives the
/// same scale again and converting back the same number: not every f32 is the reciprocal of one.
/// Throws unsupported, starting with `what`, saying how far off the nearest is.
float divisor_of(const TensorScale& tensor, const std::string& what);
float multiplier_of(const TensorScale& tensor, const std::string& what);

/// Where a layout of NVFP4 keeps what: names that follow the module's, and its tensor scales.
struct Nvfp4Parts {
  const char* layout;
  const char *codes, *scales, *tensor_scale, *input_scale;
  /// Of a tensor scale: [1] or, false, []. The other one is read, too, and kept as a detail.
  bool scales_are_vectors;
  bool divisor;
};
/// A layer of U8 codes [N, K/2], E4M3 scales [N, K/16] and its tensor scales. Throws bad_file
/// naming the tensor that is missing, of another type or shape, or has values that none has.
StoredLayer read_nvfp4(const TensorSource& source, const Module& module, const Nvfp4Parts& parts);
/// Throws unsupported, naming the layer or tensor, for scales that cannot be held.
WrittenLayer write_nvfp4(const StoredLayer& layer, const Nvfp4Parts& parts);
/// Why `shape` is no [N, K] of whole groups; empty where it is.
std::string e2m1_shape_refusal(std::span<const std::size_t> shape, std::size_t group);

}  // namespace nybble::io
