#include "cast_arrays.h"

namespace nybble::cli {

std::vector<std::uint8_t> unpacked_codes(const QuantizedMatrix& matrix) {
  std::vector<std::uint8_t> out;
  out.reserve(matrix.rows * matrix.cols);
  for (std::size_t row = 0; row < matrix.rows; ++row) {
    for (std::size_t col = 0; col < matrix.cols; ++col) out.push_back(matrix.code(row, col));
  }
  return out;
}

Shape scale_shape(const QuantizedMatrix& matrix, const Shape& shape) {
  Shape out;
  const std::size_t last = shape.back();
  const bool whole_rows = matrix.cols == last;
  if (whole_rows || last % matrix.group == 0) {
    out.assign(shape.begin(), shape.end() - 1);
    out.push_back(whole_rows ? matrix.groups : last / matrix.group);
  } else {
    out.push_back(matrix.groups);
  }
  if (matrix.format.info().layout == ScaleLayout::sign_split) out.push_back(2);
  return out;
}

std::vector<float> decoded_scales(const QuantizedMatrix& matrix) {
  const bool two_sides = matrix.format.info().layout == ScaleLayout::sign_split;
  std::vector<float> out;
  for (std::size_t row = 0; row < matrix.rows; ++row) {
    for (std::size_t group = 0; group < matrix.groups; ++group) {
      const GroupScale scale = matrix.scale(row, group);
      out.push_back(scale.positive);
      if (two_sides) out.push_back(scale.negative);
    }
  }
  return out;
}

bool has_scale_bytes(const FormatInfo& info) {
  return info.double_quantized || scale_bytes(info.scale_type) == 1;
}

}  // namespace nybble::cli
