#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "nybble/executor.h"
#include "nybble/format/format.h"
#include "nybble/matrix.h"

namespace nybble {

/// A matrix of 4-bit codes in canonical form: the same bytes on every machine, what files hold.
///
/// rows x cols as the source; each row is padded to whole groups with the code nearest to zero.
///   codes   [rows][padded_cols / 2] bytes, element 2i in the low nibble of byte i
///   scales  [rows][groups] of the format's scale type; sign-split formats: [rows][groups][2],
///           positive first. Double-quantized: [rows][groups] one-byte codes. Super-blocks:
///           [rows][groups] signed bytes.
///   zero_points [rows][groups] bytes, 0..15, only for the zero-point layout
///   offsets [rows][groups] of the scale type, or bytes 0..255 in super-blocks, only for formats
///           with offsets
struct QuantizedMatrix {
  explicit QuantizedMatrix(AnyFormat matrix_format) : format(std::move(matrix_format)) {}
  /// Sized for rows x cols, all zero. Throws bad_shape for an empty matrix or one that no memory
  /// can hold, bad_option for a format whose group is odd (two codes share a byte).
  QuantizedMatrix(AnyFormat matrix_format, std::size_t row_count, std::size_t col_count);

  AnyFormat format;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t group = 0;   ///< values of K that share a scale, never 0
  std::size_t groups = 0;  ///< per row
  std::size_t padded_cols = 0;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> scales;
  std::vector<std::uint8_t> zero_points;
  std::vector<std::uint8_t> offsets;
  TensorScale tensor;
  /// Double quantization: scale = table[code] * nested_scales[i / 256] + nested_offset, with i the
  /// index of the group in the whole matrix, row-major. Super-blocks: [rows][super-blocks], scale =
  /// signed byte * nested_scales, offset = -(byte * nested_offsets); a row's last may be shorter.
  std::vector<float> nested_scales;
  float nested_offset = 0;
  std::vector<float> nested_offsets;

  /// Throws bad_shape unless every size is what the constructor makes of format, rows and cols: for
  /// whoever fills a matrix by hand. Everything that takes a matrix calls it.
  void check() const;

  [[nodiscard]] std::uint8_t code(std::size_t row, std::size_t col) const {
    const std::uint8_t byte = codes[row * (padded_cols / 2) + col / 2];
    return col % 2 == 0 ? byte & 15 : byte >> 4;
  }
  [[nodiscard]] GroupScale scale(std::size_t row, std::size_t group_index) const;
  /// Stores a scale that is exact in the format's scale type (not where scales are nested).
  void set_scale(std::size_t row, std::size_t group_index, const GroupScale& scale);
  /// set_scale for all groups of a row.
  void set_row_scales(std::size_t row, std::span<const ScaleChoice> choices);
  /// Bit for bit what the format's reference decodes to. Kernels multiply level x (scale x tensor
  /// scale), which for Four Over Six can differ in the last bit.
  [[nodiscard]] float value(std::size_t row, std::size_t col) const {
    return format.decode(code(row, col), scale(row, col / group), tensor);
  }
  /// 4 and the scale bits stored per element of the source, those of super-blocks as GGUF stores
  /// them; padding codes and the tensor scale are not counted.
  [[nodiscard]] double bits_per_element() const;
};

/// The bytes one scale takes in `type`.
std::size_t scale_bytes(ScaleType type);
/// Decodes one stored scale.
float load_scale(ScaleType type, const std::uint8_t* bytes);
/// Encodes a scale that is exact in `type`.
void store_scale(ScaleType type, float scale, std::uint8_t* bytes);
/// "f32", "e8m0", ...
const char* scale_type_name(ScaleType type);

/// Row i of the result is row rows[i] of `matrix`, as it is stored. Throws bad_shape for a row that
/// there is not; unsupported where scales of several rows depend on each other (double
/// quantization).
QuantizedMatrix select_rows(const QuantizedMatrix& matrix, std::span<const std::uint32_t> rows);

/// Writes all values into `out` (rows x cols).
void dequantize(const QuantizedMatrix& matrix, MutableMatrixView out, Executor& executor);

}  // namespace nybble
