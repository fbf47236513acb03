#include "tests/quantize/naive_quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "nybble/format/element.h"
#include "nybble/format/nf4.h"

namespace nybble::test {

namespace {

GroupRange range_of(std::span<const float> x) {
  GroupRange range{x[0], x[0]};
  for (const float v : x) {
    range.max = std::max(range.max, v);
    range.min = std::min(range.min, v);
    if (!std::isfinite(v)) return {std::numeric_limits<float>::quiet_NaN(), 0};
  }
  return range;
}

float pairwise(std::array<float, 16> sums) {
  for (std::size_t half = 8; half != 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

/// The format's own choice, or the best of its candidates, the first of equals.
ScaleChoice choose(const AnyFormat& format, std::span<const float> x, TensorScale tensor) {
  const GroupRange range = range_of(x);
  ScaleChoice best = format.choose(range, tensor, 1);
  GroupError least = naive_group_error(format.encode_table(), x, best, tensor.scale);
  for (int i = 1; i < format.candidate_count(); ++i) {
    const ScaleChoice choice = format.candidate(range, tensor, i);
    const GroupError error = naive_group_error(format.encode_table(), x, choice, tensor.scale);
    if (format.info().layout != ScaleLayout::sign_split) {
      if (!(error.positive + error.negative < least.positive + least.negative)) continue;
      best = choice;
      least = error;
      continue;
    }
    if (error.positive < least.positive) {
      best.scale.positive = choice.scale.positive;
      best.encode_positive = choice.encode_positive;
      least.positive = error.positive;
    }
    if (error.negative < least.negative) {
      best.scale.negative = choice.scale.negative;
      best.encode_negative = choice.encode_negative;
      least.negative = error.negative;
    }
  }
  return best;
}

void set_code(QuantizedMatrix& matrix, std::size_t row, std::size_t col, std::uint8_t code) {
  std::uint8_t& byte = matrix.codes[row * (matrix.padded_cols / 2) + col / 2];
  byte = static_cast<std::uint8_t>(byte | (col % 2 == 0 ? code : code << 4));
}

}  // namespace

GroupError naive_group_error(const EncodeTable& table, std::span<const float> x,
                             const ScaleChoice& choice, float tensor_scale) {
  std::array<float, 16> positive{};
  std::array<float, 16> negative{};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float level = table.level[encode_value(table, choice, x[i])];
    const float scale = level < 0 ? choice.scale.negative : choice.scale.positive;
    const float difference = (level - choice.scale.zero) * (scale * tensor_scale) - x[i];
    (x[i] > 0 ? positive : negative)[i % 16] += difference * difference;
  }
  return {pairwise(positive), pairwise(negative)};
}

QuantizedMatrix naive_quantize(MatrixView weight, const AnyFormat& format) {
  QuantizedMatrix out(format, weight.rows, weight.cols);
  const FormatInfo& info = format.info();
  float amax = 0;
  for (std::size_t r = 0; r < weight.rows; ++r) {
    for (std::size_t c = 0; c < weight.cols; ++c) {
      const float x = weight.at(r, c);
      if (std::isfinite(x)) amax = std::max(amax, std::fabs(x));
    }
  }
  out.tensor = format.tensor_scale(amax);
  std::vector<float> scales;
  for (std::size_t r = 0; r < out.rows; ++r) {
    for (std::size_t g = 0; g < out.groups; ++g) {
      const std::size_t begin = g * out.group;
      const std::size_t end = std::min(out.cols, begin + out.group);
      const std::span<const float> x(weight.row(r) + begin, end - begin);
      ScaleChoice choice = choose(format, x, out.tensor);
      EncodeTable table = format.encode_table();
      if (info.flattened_blocks && x.size() < out.group && !std::isnan(choice.scale.positive)) {
        // bitsandbytes' last, shorter block: divides, and stores what it divided by.
        const float scale = std::max(choice.scale.positive, BnbScale::kSmallestAbsmax);
        choice = {{scale, scale, 0}, scale, scale};
        table.reciprocal = false;
      }
      scales.push_back(choice.scale.positive);
      if (!info.double_quantized) out.set_scale(r, g, choice.scale);
      for (std::size_t c = begin; c < begin + out.group; ++c) {
        const ScaleChoice plain;
        std::uint8_t code = 0;
        if (c < end) {
          code = encode_value(table, choice, x[c - begin]);
        } else if (info.layout == ScaleLayout::zero_point) {
          code = static_cast<std::uint8_t>(choice.scale.zero);
        } else {
          code = encode_value(format.encode_table(), plain, 0);
        }
        set_code(out, r, c, code);
      }
    }
  }
  if (info.double_quantized) {
    double_quantize(scales, out.scales, out.nested_scales, out.nested_offset);
  }
  return out;
}

}  // namespace nybble::test
