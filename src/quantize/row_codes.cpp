#include "src/quantize/row_codes.h"

#include <algorithm>
#include <cstring>

#include "kernels/registry.h"
#include "nybble/format/nf4.h"
#include "src/quantize/encode_row.h"

namespace nybble {

namespace {

/// Two codes a byte, the first in the low nibble. As 16-bit arithmetic, which compilers vectorise.
void pack_nibbles(const std::uint8_t* codes, std::size_t pairs, std::uint8_t* out) {
  for (std::size_t i = 0; i < pairs; ++i) {
    std::uint16_t pair = 0;
    std::memcpy(&pair, codes + 2 * i, 2);
    out[i] = static_cast<std::uint8_t>(pair | pair >> 4);
  }
}

}  // namespace

TensorScale tensor_scale_of(const AnyFormat& format, MatrixView values) {
  if (!format.info().tensor_scale) return {};
  float amax = 0;
  for (std::size_t row = 0; row < values.rows; ++row) {
    for (std::size_t col = 0; col < values.cols; ++col) {
      amax = std::max(amax, std::fabs(values.at(row, col)));
    }
  }
  return format.tensor_scale(amax);
}

void round_row(const float* x, const ScaleSearch& search, std::size_t row, RowCodes& codes,
               std::span<GroupRange> ranges) {
  encode_row(*kernels::select().table, codes.format, x, codes.cols, codes.group, codes.tensor,
             search, {ranges, {&codes.choices[row * codes.groups], codes.groups}},
             &codes.codes[row * codes.cols]);
}

RowCodes round_rows(MatrixView values, const AnyFormat& format, const ScaleSearch& search,
                    Executor& executor) {
  RowCodes out(format, values.rows, values.cols, tensor_scale_of(format, values));
  executor.parallel_for(values.rows, [&](std::size_t row) {
    std::vector<GroupRange> ranges(out.groups);
    round_row(values.row(row), search, row, out, ranges);
  });
  return out;
}

ScaleChoice with_scale(const ScaleChoice& choice, const FormatInfo& info, TensorScale tensor,
                       bool reciprocal, std::size_t side, float scale) {
  // Rounding is of magnitudes; types that hold no sign are asked for none.
  float stored = round_scale(info.scale_type, std::fabs(scale));
  if (scale < 0) stored = -stored;
  float encode = stored * tensor.scale;
  if (reciprocal) encode = encode == 0 ? 0 : 1 / encode;
  ScaleChoice out = choice;
  const bool split = info.layout == ScaleLayout::sign_split;
  if (!split || side == 0) {
    out.scale.positive = stored;
    out.encode_positive = encode;
  }
  if (!split || side == 1) {
    out.scale.negative = stored;
    out.encode_negative = encode;
  }
  return out;
}

void nest_scales(RowCodes& codes) {
  if (!codes.format.info().double_quantized) return;
  std::vector<float> scales;
  for (const ScaleChoice& choice : codes.choices) scales.push_back(choice.scale.positive);
  codes.nested_codes.resize(scales.size());
  codes.nested_scales.resize((scales.size() + kNestedBlock - 1) / kNestedBlock);
  double_quantize(scales, codes.nested_codes, codes.nested_scales, codes.nested_offset);
  const bool reciprocal = codes.format.encode_table().reciprocal;
  for (std::size_t i = 0; i < scales.size(); ++i) {
    codes.choices[i] =
        with_scale(codes.choices[i], codes.format.info(), codes.tensor, reciprocal, 0, scales[i]);
  }
}

void store_codes(QuantizedMatrix& out, std::size_t row, const ScaleChoice& last_choice,
                 std::uint8_t* codes) {
  // Padding stands for zero under any scale; with a zero point that is the zero point.
  const FormatInfo& info = out.format.info();
  const std::uint8_t padding = info.layout == ScaleLayout::zero_point
                                   ? static_cast<std::uint8_t>(last_choice.scale.zero)
                                   : encode_value(out.format.encode_table(), ScaleChoice{}, 0);
  std::fill(codes + out.cols, codes + out.padded_cols, padding);
  pack_nibbles(codes, out.padded_cols / 2, &out.codes[row * (out.padded_cols / 2)]);
}

QuantizedMatrix to_matrix(const RowCodes& codes, Executor& executor) {
  QuantizedMatrix out(codes.format, codes.rows, codes.cols);
  out.tensor = codes.tensor;
  executor.parallel_for(codes.rows, [&](std::size_t row) {
    const std::span<const ScaleChoice> choices(&codes.choices[row * codes.groups], codes.groups);
    if (!codes.format.info().double_quantized) out.set_row_scales(row, choices);
    std::vector<std::uint8_t> padded(out.padded_cols);
    std::copy_n(&codes.codes[row * codes.cols], codes.cols, padded.data());
    store_codes(out, row, choices.back(), padded.data());
  });
  if (codes.format.info().double_quantized) {
    out.scales = codes.nested_codes;
    out.nested_scales = codes.nested_scales;
    out.nested_offset = codes.nested_offset;
  }
  return out;
}

}  // namespace nybble
