#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "nybble/format/format.h"
#include "nybble/io/gguf.h"
#include "nybble/tensor/quantized_matrix.h"

/// GGUF's blocks (ggml-common.h, ggml-quants.c; formats.md section 6) and what nybble holds them
/// in. 4-bit blocks and matrices are the same bits in another order; values are bit for bit those
/// of ggml's own decoder, but for the scale bytes that OCP calls NaN: MXFP4's 0xFF (ggml: 2^128,
/// and refused by its validator) and NVFP4's 0x7F (ggml: 0) stay in place and decode to NaN.
namespace nybble::io {

/// Whether the blocks of a type hold 4-bit codes that a QuantizedMatrix can hold.
bool is_four_bit(GgufType type);

/// A 4-bit tensor, its outer axes being rows. `where` is for messages. Throws bad_file for scale
/// bytes that could not be written again: NVFP4's with a sign, of which ggml drops the sign, and
/// super-block scales that are a signalling NaN.
QuantizedMatrix read_blocks(const GgufTensor& tensor, const std::string& where);

/// The blocks of a matrix: those it was read from. `type` is what gguf_type_for says of its format
/// and shape. Throws unsupported, beginning with `where`, where a scale has no such form: a tensor
/// scale (a tensor of its own), NVFP4's with a sign.
std::vector<std::byte> write_blocks(const QuantizedMatrix& matrix, GgufType type,
                                    const std::string& where);

/// Values as f32: F32, F16, BF16, F64 (rounded), Q8_0 and the 4-bit types. Throws unsupported,
/// beginning with `where`, for the others, and what read_blocks throws.
std::vector<float> decode_gguf(const GgufTensor& tensor, const std::string& where);

}  // namespace nybble::io
