#include "nybble/tensor/packed_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/kernels.h"
#include "nybble/error.h"
#include "nybble/format/element.h"
#include "src/tensor/aligned_buffer.h"
#include "src/tensor/integer_levels.h"

namespace nybble {

using kernels::kChunk;
using kernels::kChunkBytes;
using kernels::kPanelRows;

struct PackedMatrix::Data {
  // The canonical matrix without its bulk: format, shape, tensor scale, nested scales.
  QuantizedMatrix shape;
  AlignedBuffer codes, scales, zeros;
  kernels::PackedPanels panels{};
  std::size_t panel_count = 0;
  std::size_t padded_cols = 0;
  std::size_t scale_groups = 0;  ///< per row, at least the canonical matrix's
  std::size_t scale_size = 0;    ///< bytes of one scale
  std::size_t sides = 1;
  int table_offset = 0;
  int largest_integer = 0;
};

namespace {

/// Nibbles k0..k7 of a row (low nibble first) to the kernels' order: byte t holds k_t and k_(t+4).
std::uint32_t interleave_nibbles(std::uint32_t x) {
  std::uint32_t t = (x ^ (x >> 8)) & 0x0000FF00U;
  x ^= t ^ (t << 8);
  t = (x ^ (x >> 4)) & 0x00F000F0U;
  return x ^ t ^ (t << 4);
}

/// The two swaps undone, in reverse order; each is its own inverse.
std::uint32_t restore_nibbles(std::uint32_t x) {
  std::uint32_t t = (x ^ (x >> 4)) & 0x00F000F0U;
  x ^= t ^ (t << 4);
  t = (x ^ (x >> 8)) & 0x0000FF00U;
  return x ^ t ^ (t << 8);
}

/// Copies `count` items of 1, 2 or 4 bytes to places `stride` bytes apart.
void scatter(const std::uint8_t* from, std::size_t count, std::size_t size, std::uint8_t* to,
             std::size_t stride) {
  const auto run = [&](auto constant) {
    constexpr std::size_t kSize = decltype(constant)::value;
    for (std::size_t i = 0; i < count; ++i) std::memcpy(to + i * stride, from + i * kSize, kSize);
  };
  if (size == 1) return run(std::integral_constant<std::size_t, 1>{});
  if (size == 2) return run(std::integral_constant<std::size_t, 2>{});
  run(std::integral_constant<std::size_t, 4>{});
}

/// See kernels::PackedPanels::one_table. A mantissa multiplies an integer level by up to 7, and the
/// products must fit into int8.
bool one_table_decodes(const QuantizedMatrix& matrix) {
  const FormatInfo& info = matrix.format.info();
  if (info.layout != ScaleLayout::sign_split) return false;
  const IntegerLevels integers = integer_levels(info.levels);
  for (std::size_t code = 0; code < 16; ++code) {
    const int level = code < 8 ? integers.integer[code] : -integers.integer[code];
    if (level < 0 || level * 7 > 127) return false;
  }
  if (info.scale_type == ScaleType::e8m0) return integers.exact;
  return info.scale_type == ScaleType::e5m2 && integers.exact &&
         std::all_of(matrix.scales.begin(), matrix.scales.end(),
                     [](std::uint8_t bits) { return bits < 0x80; });
}

/// The values of K per dot group: the largest of 256, 128, 64, 32, 16 that a scale's group and the
/// limit are multiples of. A whole row is cut where that pads least.
std::size_t dot_group(const QuantizedMatrix& matrix, std::size_t limit) {
  const bool whole_row = matrix.format.info().group == 0;
  for (const std::size_t size :
       {std::size_t{256}, std::size_t{128}, std::size_t{64}, std::size_t{32}, std::size_t{16}}) {
    if (limit % size != 0) continue;
    if (whole_row) {
      const auto rounded = [&](std::size_t unit) { return (matrix.cols + unit - 1) / unit * unit; };
      if (size >= kChunk ? rounded(size) == rounded(kChunk) : true) return size;
    } else if (matrix.group % size == 0) {
      return size;
    }
  }
  throw Error(ErrorCode::unsupported,
              fmt::format("pack '{}': groups of {} (activations: {}), kernels need multiples of 16",
                          matrix.format.info().spec, matrix.group, limit));
}

}  // namespace

PackedMatrix::PackedMatrix(const QuantizedMatrix& matrix, Executor& executor,
                           std::size_t dot_group_limit)
    : data_(std::make_unique<Data>(Data{QuantizedMatrix(matrix.format), {}, {}, {}})) {
  matrix.check();
  Data& d = *data_;
  const FormatInfo& info = matrix.format.info();
  d.shape.rows = matrix.rows;
  d.shape.cols = matrix.cols;
  d.shape.tensor = matrix.tensor;
  d.shape.nested_scales = matrix.nested_scales;
  d.shape.nested_offset = matrix.nested_offset;

  const std::size_t group = dot_group(matrix, dot_group_limit);
  const std::size_t unit = std::max(group, kChunk);
  d.padded_cols = (matrix.padded_cols + unit - 1) / unit * unit;
  d.panel_count = (matrix.rows + kPanelRows - 1) / kPanelRows;
  d.sides = info.layout == ScaleLayout::sign_split ? 2 : 1;
  // Kernels know no nested scales: those become the f32 they stand for.
  const ScaleType type = info.double_quantized ? ScaleType::f32 : info.scale_type;
  d.scale_size = scale_bytes(type);

  kernels::PackedPanels& p = d.panels;
  p.rows = matrix.rows;
  p.group = group;
  p.groups = d.padded_cols / group;
  p.groups_per_scale = info.group == 0 ? p.groups : matrix.group / group;
  d.scale_groups = (p.groups + p.groups_per_scale - 1) / p.groups_per_scale;
  p.scale_type = type;
  p.scale_size = d.scale_size;
  p.layout = info.layout;
  p.tensor_scale = matrix.tensor.scale;
  p.code_stride = d.padded_cols / kChunk * kChunkBytes;
  p.scale_stride = d.scale_groups * d.sides * kPanelRows * d.scale_size;
  p.zero_stride = info.layout == ScaleLayout::zero_point ? d.scale_groups * kPanelRows : 0;
  std::copy(info.levels.begin(), info.levels.end(), p.levels);
  const IntegerLevels integers = integer_levels(info.levels);
  p.integer_step = integers.step;
  std::copy(integers.integer.begin(), integers.integer.end(), p.integers);
  const auto [low, high] = std::minmax_element(p.integers, p.integers + 16);
  d.table_offset = info.layout == ScaleLayout::symmetric ? -std::min<int>(*low, 0) : 0;
  d.largest_integer = *high;
  p.offset = d.table_offset;
  p.one_table = p.groups_per_scale == 1 && one_table_decodes(matrix);

  d.codes = AlignedBuffer(d.panel_count * p.code_stride);
  d.scales = AlignedBuffer(d.panel_count * p.scale_stride);
  d.zeros = AlignedBuffer(d.panel_count * p.zero_stride);
  p.codes = d.codes.data();
  p.scales = d.scales.data();
  p.zeros = d.zeros.data();

  const std::size_t row_bytes = matrix.padded_cols / 2;
  const int padding = encode_value(matrix.format.encode_table(), ScaleChoice{}, 0);
  executor.parallel_for(d.panel_count, [&](std::size_t panel) {
    std::uint8_t* codes = d.codes.data() + panel * p.code_stride;
    std::uint8_t* scales = d.scales.data() + panel * p.scale_stride;
    std::uint8_t* zeros = d.zeros.data() + panel * p.zero_stride;
    // What pads meets activations of zero or is never stored, but must not become 0 * Inf under a
    // scale that other columns share: the code nearest zero.
    if (row_bytes * 2 != d.padded_cols || (panel + 1) * kPanelRows > matrix.rows) {
      std::memset(codes, padding * 0x11, p.code_stride);
    }
    std::memset(scales, 0, p.scale_stride);
    std::memset(zeros, 0, p.zero_stride);
    const std::size_t row_end = std::min(matrix.rows, (panel + 1) * kPanelRows);
    for (std::size_t row = panel * kPanelRows; row < row_end; ++row) {
      const std::size_t lane = row % kPanelRows;
      const std::uint8_t* from = &matrix.codes[row * row_bytes];
      const auto put = [&](std::size_t dword, std::uint32_t eight) {
        eight = interleave_nibbles(eight);
        std::memcpy(codes + (dword * kPanelRows + lane) * 4, &eight, 4);
      };
      for (std::size_t i = 0; i < row_bytes / 4; ++i) {
        std::uint32_t eight = 0;
        std::memcpy(&eight, from + 4 * i, 4);
        put(i, eight);
      }
      if (row_bytes % 4 != 0) {
        std::uint32_t eight = static_cast<std::uint32_t>(padding) * 0x11111111U;
        std::memcpy(&eight, from + row_bytes / 4 * 4, row_bytes % 4);
        put(row_bytes / 4, eight);
      }
      if (info.double_quantized) {
        for (std::size_t g = 0; g < matrix.groups; ++g) {
          store_scale(type, matrix.scale(row, g).positive, scales + (g * kPanelRows + lane) * 4);
        }
      } else {
        const std::uint8_t* stored = &matrix.scales[row * matrix.groups * d.sides * d.scale_size];
        scatter(stored, matrix.groups * d.sides, d.scale_size, scales + lane * d.scale_size,
                kPanelRows * d.scale_size);
      }
      for (std::size_t g = 0; p.zero_stride != 0 && g < matrix.groups; ++g) {
        zeros[g * kPanelRows + lane] = matrix.zero_points[row * matrix.groups + g];
      }
    }
  });
  if (info.double_quantized) d.shape.scales = matrix.scales;
}

PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;

QuantizedMatrix PackedMatrix::unpack(Executor& executor) const {
  const Data& d = *data_;
  const kernels::PackedPanels& p = d.panels;
  QuantizedMatrix out(d.shape.format, d.shape.rows, d.shape.cols);
  out.tensor = d.shape.tensor;
  out.nested_scales = d.shape.nested_scales;
  out.nested_offset = d.shape.nested_offset;
  if (!d.shape.scales.empty()) out.scales = d.shape.scales;
  const bool copy_scales = d.shape.scales.empty();
  const std::size_t row_bytes = out.padded_cols / 2;
  executor.parallel_for(d.panel_count, [&](std::size_t panel) {
    const std::uint8_t* codes = p.codes + panel * p.code_stride;
    const std::uint8_t* scales = p.scales + panel * p.scale_stride;
    const std::size_t row_end = std::min(out.rows, (panel + 1) * kPanelRows);
    for (std::size_t row = panel * kPanelRows; row < row_end; ++row) {
      const std::size_t lane = row % kPanelRows;
      for (std::size_t i = 0; i < row_bytes; i += 4) {
        std::uint32_t eight = 0;
        std::memcpy(&eight, codes + (i / 4 * kPanelRows + lane) * 4, 4);
        eight = restore_nibbles(eight);
        std::memcpy(&out.codes[row * row_bytes + i], &eight,
                    std::min<std::size_t>(4, row_bytes - i));
      }
      for (std::size_t g = 0; g < out.groups; ++g) {
        const std::size_t index = row * out.groups + g;
        for (std::size_t side = 0; copy_scales && side < d.sides; ++side) {
          std::memcpy(&out.scales[(index * d.sides + side) * d.scale_size],
                      scales + ((g * d.sides + side) * kPanelRows + lane) * d.scale_size,
                      d.scale_size);
        }
        if (p.zero_stride != 0) {
          out.zero_points[index] = p.zeros[panel * p.zero_stride + g * kPanelRows + lane];
        }
      }
    }
  });
  return out;
}

std::size_t PackedMatrix::rows() const noexcept { return data_->shape.rows; }
std::size_t PackedMatrix::cols() const noexcept { return data_->shape.cols; }
std::size_t PackedMatrix::padded_cols() const noexcept { return data_->padded_cols; }
std::size_t PackedMatrix::bytes() const noexcept {
  return data_->codes.size() + data_->scales.size() + data_->zeros.size();
}
const kernels::PackedPanels& PackedMatrix::panels() const noexcept { return data_->panels; }

void PackedMatrix::fit(const kernels::KernelTable& target) noexcept {
  kernels::PackedPanels& p = data_->panels;
  p.signed_dot = p.layout == ScaleLayout::symmetric &&
                 data_->largest_integer + data_->table_offset > target.dot_limit;
  p.offset = p.signed_dot ? 0 : data_->table_offset;
  if (p.one_table) p.offset = target.split_offset;
}

}  // namespace nybble
