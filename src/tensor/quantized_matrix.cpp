#include "nybble/tensor/quantized_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "nybble/error.h"
#include "nybble/format/nf4.h"
#include "nybble/format/scale.h"
#include "src/check_enum.h"
#include "src/concurrency.h"

namespace nybble {

std::size_t scale_bytes(ScaleType type) {
  check_enum(type, ScaleType::e5m2, "scale type");
  switch (type) {
    case ScaleType::f32:
      return 4;
    case ScaleType::f16:
    case ScaleType::bf16:
      return 2;
    default:
      return 1;
  }
}

const char* scale_type_name(ScaleType type) {
  switch (type) {
    case ScaleType::f32:
      return "f32";
    case ScaleType::f16:
      return "f16";
    case ScaleType::bf16:
      return "bf16";
    case ScaleType::e8m0:
      return "e8m0";
    case ScaleType::e4m3:
      return "e4m3";
    case ScaleType::e4m3x480:
      return "e4m3x480";
    case ScaleType::e5m2:
      return "e5m2";
  }
  return "?";
}

float load_scale(ScaleType type, const std::uint8_t* bytes) {
  float wide = 0;
  std::uint16_t half = 0;
  switch (type) {
    case ScaleType::f32:
      std::memcpy(&wide, bytes, 4);
      return wide;
    case ScaleType::f16:
      std::memcpy(&half, bytes, 2);
      return Float16{half}.to_float();
    case ScaleType::bf16:
      std::memcpy(&half, bytes, 2);
      return BFloat16{half}.to_float();
    case ScaleType::e8m0:
      return E8M0{*bytes}.to_float();
    case ScaleType::e4m3:
      return E4M3{*bytes}.to_float();
    case ScaleType::e4m3x480:
      return E4M3x480{*bytes}.to_float();
    case ScaleType::e5m2:
      return E5M2{*bytes}.to_float();
  }
  refuse_enum(type, "scale type");
}

void store_scale(ScaleType type, float scale, std::uint8_t* bytes) {
  std::uint16_t half = 0;
  switch (type) {
    case ScaleType::f32:
      std::memcpy(bytes, &scale, 4);
      return;
    case ScaleType::f16:
      half = Float16::from_float(scale).bits;
      std::memcpy(bytes, &half, 2);
      return;
    case ScaleType::bf16:
      half = BFloat16::from_float(scale).bits;
      std::memcpy(bytes, &half, 2);
      return;
    case ScaleType::e8m0:
      // A power of two is its exponent field; 2^-127, a denormal, has 0 there.
      *bytes = std::isnan(scale)
                   ? std::uint8_t{255}
                   : static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(scale) >> 23);
      return;
    case ScaleType::e4m3:
      *bytes = E4M3::from_float(scale).bits;
      return;
    case ScaleType::e4m3x480:
      *bytes = E4M3x480::from_float(scale).bits;
      return;
    case ScaleType::e5m2:
      *bytes = E5M2::from_float(scale).bits;
      return;
  }
  refuse_enum(type, "scale type");
}

namespace {

/// Per row.
std::size_t super_blocks(const FormatInfo& info, std::size_t groups) {
  return (groups + info.super_block - 1) / info.super_block;
}

/// Everything about a matrix's memory that follows from its format and shape.
struct Sizes {
  std::size_t group, groups, padded_cols, codes, scales, zero_points, offsets, nested_scales,
      nested_offsets;
};

Sizes sizes_of(const FormatInfo& info, std::size_t rows, std::size_t cols) {
  // 2^48 elements is beyond any memory, and far from where the products below would wrap.
  constexpr std::size_t kMost = std::size_t{1} << 48;
  if (rows == 0 || cols == 0 || cols > kMost || rows > kMost / cols) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("quantized matrix: shape {} x {}, expected at least 1 x 1 and at most "
                            "2^48 elements",
                            rows, cols));
  }
  if (info.group % 2 != 0 || info.group > kMost) {
    throw Error(ErrorCode::bad_option, fmt::format("format '{}': group {}, expected an even number",
                                                   info.spec, info.group));
  }
  check_enum(info.layout, ScaleLayout::sign_split, "scale layout");
  Sizes out{};
  out.group = info.group == 0 ? cols + cols % 2 : info.group;
  out.groups = (cols + out.group - 1) / out.group;
  out.padded_cols = out.groups * out.group;
  out.codes = rows * (out.padded_cols / 2);
  const std::size_t sides = info.layout == ScaleLayout::sign_split ? 2 : 1;
  const std::size_t bytes = info.nested() ? 1 : scale_bytes(info.scale_type);
  out.scales = rows * out.groups * sides * bytes;
  if (info.layout == ScaleLayout::zero_point) out.zero_points = rows * out.groups;
  if (info.offsets) out.offsets = rows * out.groups * bytes;
  if (info.double_quantized) {
    out.nested_scales = (rows * out.groups + kNestedBlock - 1) / kNestedBlock;
  } else if (info.super_block != 0) {
    out.nested_scales = rows * super_blocks(info, out.groups);
    if (info.offsets) out.nested_offsets = out.nested_scales;
  }
  return out;
}

}  // namespace

QuantizedMatrix::QuantizedMatrix(AnyFormat matrix_format, std::size_t row_count,
                                 std::size_t col_count)
    : format(std::move(matrix_format)), rows(row_count), cols(col_count) {
  const Sizes sizes = sizes_of(format.info(), rows, cols);
  group = sizes.group;
  groups = sizes.groups;
  padded_cols = sizes.padded_cols;
  codes.resize(sizes.codes);
  scales.resize(sizes.scales);
  zero_points.resize(sizes.zero_points);
  offsets.resize(sizes.offsets);
  nested_scales.resize(sizes.nested_scales);
  nested_offsets.resize(sizes.nested_offsets);
}

void QuantizedMatrix::check() const {
  const Sizes sizes = sizes_of(format.info(), rows, cols);
  const auto expect = [&](const char* what, std::size_t found, std::size_t expected) {
    if (found == expected) return;
    throw Error(ErrorCode::bad_shape,
                fmt::format("quantized matrix {} x {} of '{}': {} is {}, expected {}", rows, cols,
                            format.info().spec, what, found, expected));
  };
  expect("group", group, sizes.group);
  expect("groups", groups, sizes.groups);
  expect("padded_cols", padded_cols, sizes.padded_cols);
  expect("the size of codes", codes.size(), sizes.codes);
  expect("the size of scales", scales.size(), sizes.scales);
  expect("the size of zero_points", zero_points.size(), sizes.zero_points);
  expect("the size of offsets", offsets.size(), sizes.offsets);
  expect("the size of nested_scales", nested_scales.size(), sizes.nested_scales);
  expect("the size of nested_offsets", nested_offsets.size(), sizes.nested_offsets);
}

GroupScale QuantizedMatrix::scale(std::size_t row, std::size_t group_index) const {
  const FormatInfo& info = format.info();
  const std::size_t index = row * groups + group_index;
  if (info.double_quantized) {
    const float value =
        nested_table()[scales[index]] * nested_scales[index / kNestedBlock] + nested_offset;
    return {value, value, 0};
  }
  if (info.super_block != 0) {
    const std::size_t super = row * super_blocks(info, groups) + group_index / info.super_block;
    const float value =
        static_cast<float>(static_cast<std::int8_t>(scales[index])) * nested_scales[super];
    const float offset =
        info.offsets ? -(static_cast<float>(offsets[index]) * nested_offsets[super]) : 0.0F;
    return {value, value, 0, offset};
  }
  const std::size_t bytes = scale_bytes(info.scale_type);
  if (info.layout == ScaleLayout::sign_split) {
    const std::uint8_t* at = &scales[index * 2 * bytes];
    return {load_scale(info.scale_type, at), load_scale(info.scale_type, at + bytes), 0};
  }
  const float value = load_scale(info.scale_type, &scales[index * bytes]);
  return {value, value,
          info.layout == ScaleLayout::zero_point ? static_cast<float>(zero_points[index]) : 0.0F,
          info.offsets ? load_scale(info.scale_type, &offsets[index * bytes]) : 0.0F};
}

void QuantizedMatrix::set_scale(std::size_t row, std::size_t group_index, const GroupScale& scale) {
  const FormatInfo& info = format.info();
  if (info.nested()) {
    throw Error(ErrorCode::unsupported,
                info.double_quantized
                    ? "double-quantized scales are set all at once, by double_quantize"
                    : "scales of super-blocks are set all at once");
  }
  const std::size_t index = row * groups + group_index;
  const std::size_t bytes = scale_bytes(info.scale_type);
  if (info.layout == ScaleLayout::sign_split) {
    store_scale(info.scale_type, scale.positive, &scales[index * 2 * bytes]);
    store_scale(info.scale_type, scale.negative, &scales[(index * 2 + 1) * bytes]);
    return;
  }
  store_scale(info.scale_type, scale.positive, &scales[index * bytes]);
  if (info.layout == ScaleLayout::zero_point) {
    zero_points[index] = static_cast<std::uint8_t>(scale.zero);
  }
  if (info.offsets) store_scale(info.scale_type, scale.offset, &offsets[index * bytes]);
}

void QuantizedMatrix::set_row_scales(std::size_t row, std::span<const ScaleChoice> choices) {
  const FormatInfo& info = format.info();
  const bool split = info.layout == ScaleLayout::sign_split;
  const std::size_t bytes = scale_bytes(info.scale_type);
  std::uint8_t* to = &scales[row * groups * (split ? 2 : 1) * bytes];
  for (std::size_t g = 0; g < groups; ++g) {
    store_scale(info.scale_type, choices[g].scale.positive, to);
    to += bytes;
    if (split) {
      store_scale(info.scale_type, choices[g].scale.negative, to);
      to += bytes;
    }
    if (!zero_points.empty()) {
      zero_points[row * groups + g] = static_cast<std::uint8_t>(choices[g].scale.zero);
    }
  }
}

double QuantizedMatrix::bits_per_element() const {
  const FormatInfo& info = format.info();
  double scale_bits =
      8.0 * static_cast<double>(info.double_quantized ? 1 : scale_bytes(info.scale_type));
  if (info.super_block != 0) scale_bits = 6 + 16.0 / static_cast<double>(info.super_block);
  if (info.layout == ScaleLayout::sign_split || info.offsets) scale_bits *= 2;
  if (info.layout == ScaleLayout::zero_point) scale_bits += 4;
  if (info.double_quantized) scale_bits += 32.0 / static_cast<double>(kNestedBlock);
  return 4 + scale_bits * static_cast<double>(groups) / static_cast<double>(cols);
}

QuantizedMatrix select_rows(const QuantizedMatrix& matrix, std::span<const std::uint32_t> rows) {
  matrix.check();
  if (matrix.format.info().double_quantized) {
    throw Error(ErrorCode::unsupported,
                fmt::format("rows of '{}' share the scales of scales, expected a format without",
                            matrix.format.info().spec));
  }
  QuantizedMatrix out(matrix.format, rows.size(), matrix.cols);
  out.tensor = matrix.tensor;
  const auto copy = [&](const auto& from, auto& to) {
    const std::size_t width = from.size() / matrix.rows;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] >= matrix.rows) {
        throw Error(ErrorCode::bad_shape,
                    fmt::format("row {}, expected one of {}", rows[i], matrix.rows));
      }
      std::copy_n(from.data() + rows[i] * width, width, to.data() + i * width);
    }
  };
  copy(matrix.codes, out.codes);
  copy(matrix.scales, out.scales);
  copy(matrix.zero_points, out.zero_points);
  copy(matrix.offsets, out.offsets);
  copy(matrix.nested_scales, out.nested_scales);
  copy(matrix.nested_offsets, out.nested_offsets);
  return out;
}

void dequantize(const QuantizedMatrix& matrix, MutableMatrixView out, Executor& executor) {
  matrix.check();
  check_view(out, "dequantize: output");
  if (out.rows != matrix.rows || out.cols != matrix.cols) {
    throw Error(ErrorCode::bad_shape, fmt::format("dequantize: output is {} x {}, expected {} x {}",
                                                  out.rows, out.cols, matrix.rows, matrix.cols));
  }
  const std::size_t tasks = std::min(matrix.rows, concurrency_of(executor) * 4);
  executor.parallel_for(tasks, [&](std::size_t task) {
    for (std::size_t row = matrix.rows * task / tasks; row < matrix.rows * (task + 1) / tasks;
         ++row) {
      for (std::size_t g = 0; g < matrix.groups; ++g) {
        // Sixteen values a group at most: decode each once.
        const GroupScale scale = matrix.scale(row, g);
        float values[16];
        for (std::size_t c = 0; c < 16; ++c) {
          values[c] = matrix.format.decode(static_cast<std::uint8_t>(c), scale, matrix.tensor);
        }
        const std::size_t end = std::min(matrix.cols, (g + 1) * matrix.group);
        float* to = out.row(row);
        for (std::size_t col = g * matrix.group; col < end; ++col) {
          to[col] = values[matrix.code(row, col)];
        }
      }
    }
  });
}

}  // namespace nybble
