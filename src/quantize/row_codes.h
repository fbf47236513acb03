#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "nybble/format/element.h"
#include "nybble/format/scale.h"
#include "nybble/tensor/quantized_matrix.h"
#include "src/quantize/group_search.h"

namespace nybble {

/// A matrix between the passes of a quantizer: one code a byte, scales as they were chosen.
struct RowCodes {
  RowCodes(const AnyFormat& matrix_format, std::size_t row_count, std::size_t col_count,
           TensorScale tensor_scale)
      : format(matrix_format),
        rows(row_count),
        cols(col_count),
        group(matrix_format.info().group == 0 ? col_count : matrix_format.info().group),
        groups((col_count + group - 1) / group),
        tensor(tensor_scale),
        codes(row_count * col_count),
        choices(row_count * groups) {}

  AnyFormat format;
  std::size_t rows, cols, group, groups;
  TensorScale tensor;
  std::vector<std::uint8_t> codes;   ///< [rows][cols]
  std::vector<ScaleChoice> choices;  ///< [rows][groups]
  /// Double quantization (nest_scales): what QuantizedMatrix has under the same names.
  std::vector<std::uint8_t> nested_codes;
  std::vector<float> nested_scales;
  float nested_offset = 0;

  [[nodiscard]] ScaleChoice& choice(std::size_t row, std::size_t group_index) {
    return choices[row * groups + group_index];
  }
  [[nodiscard]] const ScaleChoice& choice(std::size_t row, std::size_t group_index) const {
    return choices[row * groups + group_index];
  }
  [[nodiscard]] std::uint8_t encode(float x, const ScaleChoice& choice) const {
    const EncodeTable& table = format.encode_table();
    if (table.layout != ScaleLayout::zero_point || table.reciprocal) {
      return encode_value(table, choice, x);
    }
    // The same without a call of nearbyint, which baseline x86-64 has no instruction for: adding
    // 1.5 * 2^23 rounds to an integer. Beyond 15 either way codes are clamped anyhow.
    constexpr float kMagic = 0x1.8p23F;
    const float z = x != 0 ? x / choice.encode_positive : 0.0F;
    const float rounded = (std::clamp(z, -16.0F, 16.0F) + kMagic) - kMagic + choice.scale.zero;
    if (!(rounded > 0)) return 0;  // NaN, too
    return rounded < 15 ? static_cast<std::uint8_t>(rounded) : std::uint8_t{15};
  }
  /// What kernels make of a code (FormatInfo's one idea).
  [[nodiscard]] float decode(std::uint8_t code, const ScaleChoice& choice) const {
    const float level = format.encode_table().level[code];
    const float by = level < 0 ? choice.scale.negative : choice.scale.positive;
    return (level - choice.scale.zero) * (by * tensor.scale);
  }
  [[nodiscard]] float value(std::size_t row, std::size_t col) const {
    return decode(codes[row * cols + col], choice(row, col / group));
  }
};

/// The tensor scale of two-level formats for these (finite) values; 1 for all others.
TensorScale tensor_scale_of(const AnyFormat& format, MatrixView values);

/// Rounds one row to nearest under `search`: every group's scale, then codes. `ranges`: one a
/// group, filled.
void round_row(const float* x, const ScaleSearch& search, std::size_t row, RowCodes& codes,
               std::span<GroupRange> ranges);
/// The same for all rows of a matrix, its own tensor.
RowCodes round_rows(MatrixView values, const AnyFormat& format, const ScaleSearch& search,
                    Executor& executor);

/// A choice whose scale of one side (0 = of levels >= 0, or both; 1 = of negative ones) becomes the
/// stored number nearest to `scale`.
ScaleChoice with_scale(const ScaleChoice& choice, const FormatInfo& info, TensorScale tensor,
                       bool reciprocal, std::size_t side, float scale);

/// Double-quantized formats store other scales than were chosen: makes the choices those.
void nest_scales(RowCodes& codes);

/// Codes and scales in canonical form.
QuantizedMatrix to_matrix(const RowCodes& codes, Executor& executor);

/// Writes one row's codes (padded_cols bytes, the first cols of them used and the rest overwritten)
/// into `out`; padding stands for zero.
void store_codes(QuantizedMatrix& out, std::size_t row, const ScaleChoice& last_choice,
                 std::uint8_t* codes);

}  // namespace nybble
