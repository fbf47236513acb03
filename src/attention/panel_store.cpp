#include "src/attention/panel_store.h"

#include <cstring>

#include "nybble/format/element.h"
#include "nybble/tensor/quantized_matrix.h"
#include "src/tensor/integer_levels.h"

namespace nybble {

using kernels::kChunk;
using kernels::kChunkBytes;
using kernels::kPanelRows;

PanelStore::PanelStore(const AnyFormat& format, const Shape& shape,
                       const kernels::KernelTable& target) {
  const FormatInfo& info = format.info();
  sides_ = info.layout == ScaleLayout::sign_split ? 2 : 1;
  scale_size_ = scale_bytes(info.scale_type);
  padding_ = encode_value(format.encode_table(), ScaleChoice{}, 0);
  panel_count_ = (shape.rows + kPanelRows - 1) / kPanelRows;
  panels_.group = shape.dot_group;
  panels_.groups_per_scale = shape.groups_per_scale;
  panels_.scale_type = info.scale_type;
  panels_.scale_size = scale_size_;
  panels_.tensor_scale = 1;
  panels_.code_stride = shape.cols / kChunk * kChunkBytes;
  panels_.scale_stride = shape.scale_groups * sides_ * kPanelRows * scale_size_;
  panels_.zero_stride =
      info.layout == ScaleLayout::zero_point ? shape.scale_groups * kPanelRows : 0;
  set_levels(panels_, info.levels, info.layout, target);

  const std::size_t panels = shape.matrices * panel_count_;
  codes_ = AlignedBuffer(panels * panels_.code_stride);
  scales_ = AlignedBuffer(panels * panels_.scale_stride);
  zeros_ = AlignedBuffer(panels * panels_.zero_stride);
  panels_.codes = codes_.data();
  panels_.scales = scales_.data();
  panels_.zeros = zeros_.data();
}

kernels::PackedPanels PanelStore::panels(std::size_t matrix, std::size_t rows,
                                         std::size_t groups) const {
  kernels::PackedPanels out = panels_;
  out.codes += matrix * panel_count_ * out.code_stride;
  out.scales += matrix * panel_count_ * out.scale_stride;
  out.zeros += matrix * panel_count_ * out.zero_stride;
  out.rows = rows;
  out.groups = groups;
  return out;
}

std::size_t PanelStore::row_bytes(std::size_t cols, std::size_t scale_groups) const {
  return cols / 2 + scale_groups * (sides_ * scale_size_ + (panels_.zero_stride == 0 ? 0 : 1));
}

void PanelStore::clear_codes(std::size_t matrix, std::size_t panel, std::size_t chunk,
                             std::size_t chunks) {
  std::memset(
      codes_.data() + (matrix * panel_count_ + panel) * panels_.code_stride + chunk * kChunkBytes,
      padding_ * 0x11, chunks * kChunkBytes);
}

void PanelStore::clear_scales(std::size_t matrix, std::size_t panel, std::size_t group,
                              std::size_t groups) {
  const std::size_t at = matrix * panel_count_ + panel;
  const std::size_t size = sides_ * kPanelRows * scale_size_;
  std::memset(scales_.data() + at * panels_.scale_stride + group * size, 0, groups * size);
  if (panels_.zero_stride == 0) return;
  std::memset(zeros_.data() + at * panels_.zero_stride + group * kPanelRows, 0,
              groups * kPanelRows);
}

void PanelStore::put_codes(std::size_t matrix, std::size_t row, std::size_t col,
                           std::span<const std::uint8_t> codes) {
  std::uint8_t* to = codes_.data() +
                     (matrix * panel_count_ + row / kPanelRows) * panels_.code_stride +
                     (col / 8 * kPanelRows + row % kPanelRows) * 4;
  for (std::size_t i = 0; i < codes.size(); i += 8, to += kPanelRows * 4) {
    for (std::size_t t = 0; t < 4; ++t) {
      to[t] = static_cast<std::uint8_t>(codes[i + t] | codes[i + t + 4] << 4);
    }
  }
}

void PanelStore::put_code(std::size_t matrix, std::size_t row, std::size_t col, std::uint8_t code) {
  std::uint8_t* byte = codes_.data() +
                       (matrix * panel_count_ + row / kPanelRows) * panels_.code_stride +
                       (col / 8 * kPanelRows + row % kPanelRows) * 4 + col % 4;
  const unsigned shift = col % 8 < 4 ? 0 : 4;
  *byte = static_cast<std::uint8_t>((*byte & ~(15U << shift)) | unsigned{code} << shift);
}

void PanelStore::put_scale(std::size_t matrix, std::size_t row, std::size_t group,
                           const GroupScale& scale) {
  const std::size_t panel = matrix * panel_count_ + row / kPanelRows;
  const std::size_t lane = row % kPanelRows;
  std::uint8_t* to = scales_.data() + panel * panels_.scale_stride +
                     (group * sides_ * kPanelRows + lane) * scale_size_;
  store_scale(panels_.scale_type, scale.positive, to);
  if (sides_ == 2) {
    store_scale(panels_.scale_type, scale.negative, to + kPanelRows * scale_size_);
  }
  if (panels_.zero_stride != 0) {
    zeros_.data()[panel * panels_.zero_stride + group * kPanelRows + lane] =
        static_cast<std::uint8_t>(scale.zero);
  }
}

}  // namespace nybble
