#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "nybble/tensor/quantized_matrix.h"

/// A quantized array taken apart into the arrays that `nybble cast` writes.
namespace nybble::cli {

using Shape = std::vector<std::size_t>;

/// The 4-bit codes, one a byte, in the order of the source.
std::vector<std::uint8_t> unpacked_codes(const QuantizedMatrix& matrix);

/// Shape of the scales of an array of `shape`: its last axis becomes the groups, and [positive,
/// negative] follows for sign-split formats. Where blocks cross row ends: [blocks].
Shape scale_shape(const QuantizedMatrix& matrix, const Shape& shape);
/// The scales decoded to f32, in that shape.
std::vector<float> decoded_scales(const QuantizedMatrix& matrix);

/// Whether a scale is stored as one byte, which is a code where formats are double-quantized.
bool has_scale_bytes(const FormatInfo& info);

}  // namespace nybble::cli
