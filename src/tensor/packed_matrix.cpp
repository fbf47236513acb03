#include "nybble/tensor/packed_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "nybble/error.h"
#include "nybble/format/element.h"
#include "src/owned.h"
#include "src/tensor/aligned_buffer.h"
#include "src/tensor/integer_levels.h"

namespace nybble {

using kernels::kChunk;
using kernels::kPanelRows;

struct PackedMatrix::Data {
  explicit Data(QuantizedMatrix&& empty) : shape(std::move(empty)) {}

  // The canonical matrix without its bulk: format, shape, tensor scale, nested scales, offsets.
  QuantizedMatrix shape;
  /// Panels of units: a head with the unit's scales and zero points, then its codes. One stream, so
  /// that a product reads memory in order: with scales in a stream of their own, 1 row of
  /// activations was measured to read 0.6 to 0.85 of what plain reading does.
  AlignedBuffer buffer;
  std::size_t unit_head = 0;  ///< bytes, whole cache lines
  std::size_t scales_in_unit = 1;
  std::size_t unit_groups = 1;  ///< dot groups
  kernels::PackedPanels panels{};
  std::size_t panel_count = 0;
  std::size_t padded_cols = 0;
  std::size_t scale_groups = 0;  ///< per row, at least the canonical matrix's
  std::size_t scale_size = 0;    ///< bytes of one scale
  std::size_t sides = 1;

  /// Cuts panels into units and allocates them. Heads are whole cache lines without padding where
  /// four scales of 16 rows are.
  void lay_out() {
    kernels::PackedPanels& p = panels;
    const std::size_t scale_head = kPanelRows * sides * scale_size;
    const std::size_t zero_head = p.layout == ScaleLayout::zero_point ? kPanelRows : 0;
    while (scales_in_unit < std::min<std::size_t>(4, scale_groups) &&
           scales_in_unit * (scale_head + zero_head) % 64 != 0) {
      scales_in_unit *= 2;
    }
    unit_groups = scales_in_unit * p.groups_per_scale;
    if (unit_groups >= p.groups) {
      scales_in_unit = scale_groups;
      unit_groups = p.groups;
    }
    p.unit_groups = unit_groups;
    unit_head = round_to_cache_line(scales_in_unit * (scale_head + zero_head));
    p.unit_stride = unit_head + unit_groups * p.group * kPanelRows / 2;
    const std::size_t units = (p.groups + unit_groups - 1) / unit_groups;
    p.code_stride = units * unit_head + p.groups * p.group * kPanelRows / 2;
    p.scale_stride = p.zero_stride = p.code_stride;
    buffer = AlignedBuffer(panel_count * p.code_stride, AlignedBuffer::Pages::shared);
    p.scales = buffer.data();
    p.zeros = p.scales + scales_in_unit * scale_head;
    p.codes = p.scales + unit_head;
  }
  /// Calls visit(unit, first value of K, values of K) for every unit of a panel.
  template <class Visit>
  void for_units(Visit visit) const {
    const std::size_t values = unit_groups * panels.group;
    for (std::size_t unit = 0; unit * values < padded_cols; ++unit) {
      visit(unit, unit * values, std::min(values, padded_cols - unit * values));
    }
  }
  /// Where a unit of a panel begins: its head.
  [[nodiscard]] std::uint8_t* unit_at(std::size_t panel, std::size_t unit) const {
    return buffer.data() + panel * panels.code_stride + unit * panels.unit_stride;
  }
};

namespace {

/// Nibbles k0..k7 of a row (low nibble first) to the kernels' order: byte t of four holds k_t and
/// k_(t+4). Two dwords at once.
std::uint64_t interleave_nibbles(std::uint64_t x) {
  std::uint64_t t = (x ^ (x >> 8)) & 0x0000FF000000FF00U;
  x ^= t ^ (t << 8);
  t = (x ^ (x >> 4)) & 0x00F000F000F000F0U;
  return x ^ t ^ (t << 4);
}

/// The two swaps undone, in reverse order; each is its own inverse.
std::uint32_t restore_nibbles(std::uint32_t x) {
  std::uint32_t t = (x ^ (x >> 4)) & 0x00F000F0U;
  x ^= t ^ (t << 4);
  t = (x ^ (x >> 8)) & 0x0000FF00U;
  return x ^ t ^ (t << 8);
}

/// `bytes` (a multiple of 16) of two neighbouring rows to their lanes, `to` being the first's. Two
/// rows at a time make whole 8-byte stores, and 64 bytes of each stay within what L1 holds.
void pack_row_pair(const std::uint8_t* first, const std::uint8_t* second, std::size_t bytes,
                   std::uint8_t* to) {
  for (std::size_t i = 0; i < bytes; i += 8, to += 8 * kPanelRows) {
    std::uint64_t a = 0;
    std::uint64_t b = 0;
    std::memcpy(&a, first + i, 8);
    std::memcpy(&b, second + i, 8);
    a = interleave_nibbles(a);
    b = interleave_nibbles(b);
    const std::uint64_t low = (a & 0xFFFFFFFFU) | (b << 32);
    const std::uint64_t high = (a >> 32) | (b >> 32 << 32);
    std::memcpy(to, &low, 8);
    std::memcpy(to + 4 * kPanelRows, &high, 8);
  }
}

/// Bytes a[i][j] to a[j][i], 8 x 8 of them: halves, quarters and eighths of the words change
/// places.
void transpose_bytes(std::uint64_t (&a)[8]) {
  const auto swap = [&](std::size_t distance, std::uint64_t low) {
    for (std::size_t i = 0; i < 8; ++i) {
      if ((i & distance) != 0) continue;
      const std::uint64_t t = ((a[i] >> (8 * distance)) ^ a[i + distance]) & low;
      a[i] ^= t << (8 * distance);
      a[i + distance] ^= t;
    }
  };
  swap(4, 0x00000000FFFFFFFFU);
  swap(2, 0x0000FFFF0000FFFFU);
  swap(1, 0x00FF00FF00FF00FFU);
}

/// `rows` rows of `count` items of 1, 2 or 4 bytes each, one after the other, to the lanes of a
/// panel: item i of row r to place 16 i + r.
void transpose(const std::uint8_t* from, std::size_t rows, std::size_t count, std::size_t size,
               std::uint8_t* to) {
  std::size_t whole = 0;
  if (size == 1 && rows == kPanelRows) {
    whole = count / 8 * 8;
    for (std::size_t i = 0; i < whole; i += 8) {
      for (std::size_t lane = 0; lane < kPanelRows; lane += 8) {
        std::uint64_t words[8];
        for (std::size_t r = 0; r < 8; ++r)
          std::memcpy(&words[r], from + (lane + r) * count + i, 8);
        transpose_bytes(words);
        for (std::size_t r = 0; r < 8; ++r) {
          std::memcpy(to + (i + r) * kPanelRows + lane, &words[r], 8);
        }
      }
    }
  }
  const auto run = [&](auto constant) {
    constexpr std::size_t kSize = decltype(constant)::value;
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = whole; i < count; ++i) {
        std::memcpy(to + (i * kPanelRows + r) * kSize, from + (r * count + i) * kSize, kSize);
      }
    }
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
  // Not std::all_of: without an early exit this is a few vector instructions a cache line.
  std::uint8_t any_bits = 0;
  for (const std::uint8_t bits : matrix.scales) any_bits |= bits;
  return info.scale_type == ScaleType::e5m2 && integers.exact && any_bits < 0x80;
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
    : data_(std::make_unique<Data>(QuantizedMatrix(matrix.format))) {
  matrix.check();
  Data& d = *data_;
  const FormatInfo& info = matrix.format.info();
  d.shape.rows = matrix.rows;
  d.shape.cols = matrix.cols;
  d.shape.tensor = matrix.tensor;
  d.shape.nested_scales = matrix.nested_scales;
  d.shape.nested_offset = matrix.nested_offset;
  d.shape.offsets = matrix.offsets;
  d.shape.nested_offsets = matrix.nested_offsets;

  const std::size_t group = dot_group(matrix, dot_group_limit);
  const std::size_t whole = std::max(group, kChunk);
  d.padded_cols = (matrix.padded_cols + whole - 1) / whole * whole;
  d.panel_count = (matrix.rows + kPanelRows - 1) / kPanelRows;
  d.sides = info.layout == ScaleLayout::sign_split ? 2 : 1;
  // Kernels know no nested scales: those become the f32 they stand for.
  const ScaleType type = info.nested() ? ScaleType::f32 : info.scale_type;
  d.scale_size = scale_bytes(type);

  kernels::PackedPanels& p = d.panels;
  p.rows = matrix.rows;
  p.group = group;
  p.groups = d.padded_cols / group;
  p.groups_per_scale = info.group == 0 ? p.groups : matrix.group / group;
  d.scale_groups = (p.groups + p.groups_per_scale - 1) / p.groups_per_scale;
  p.scale_type = type;
  p.scale_size = d.scale_size;
  p.tensor_scale = matrix.tensor.scale;
  set_levels(p, kernel_levels(info), info.layout, kernels::KernelTable{});
  p.one_table = p.groups_per_scale == 1 && one_table_decodes(matrix);

  d.lay_out();

  const std::size_t row_bytes = matrix.padded_cols / 2;
  // What pads meets activations of zero or is never stored, but must not become 0 * Inf under a
  // scale that other columns share: the code nearest zero.
  const int padding = encode_value(matrix.format.encode_table(), ScaleChoice{}, 0) * 0x11;
  constexpr std::size_t kPiece = 64;  ///< bytes of a row
  const std::size_t scale_bytes_of_panel = d.scale_groups * d.sides * kPanelRows * d.scale_size;
  const std::size_t zeros_of_panel =
      info.layout == ScaleLayout::zero_point ? d.scale_groups * kPanelRows : 0;
  executor.parallel_for(d.panel_count, [&](std::size_t panel) {
    const std::size_t row_begin = panel * kPanelRows;
    const std::size_t row_end = std::min(matrix.rows, row_begin + kPanelRows);
    const auto pack_codes = [&](std::size_t first_byte, std::size_t begin, std::size_t bytes,
                                std::uint8_t* codes) {
      begin += first_byte;
      for (std::size_t lane = 0; lane < kPanelRows; lane += 2) {
        std::uint8_t padded[2][kPiece];
        const auto piece = [&](std::size_t row, std::uint8_t* room) -> const std::uint8_t* {
          const std::size_t there = row < row_end && begin < row_bytes ? row_bytes - begin : 0;
          if (there >= bytes) return &matrix.codes[row * row_bytes + begin];
          std::memset(room, padding, bytes);
          if (there != 0) std::memcpy(room, &matrix.codes[row * row_bytes + begin], there);
          return room;
        };
        const std::uint8_t* first = piece(row_begin + lane, padded[0]);
        const std::uint8_t* second = piece(row_begin + lane + 1, padded[1]);
        std::uint8_t* to = codes + (begin - first_byte) * kPanelRows + lane * 4;
        // A constant lets the compiler unroll. Units of two groups of 32 have half a piece.
        if (bytes == kPiece) {
          pack_row_pair(first, second, kPiece, to);
        } else if (bytes == kPiece / 2) {
          pack_row_pair(first, second, kPiece / 2, to);
        } else {
          pack_row_pair(first, second, bytes, to);
        }
      }
    };
    std::vector<std::uint8_t> scales_and_zeros(scale_bytes_of_panel + zeros_of_panel);
    std::uint8_t* scales = scales_and_zeros.data();
    std::uint8_t* zeros = scales + scale_bytes_of_panel;
    const std::size_t rows = row_end - row_begin;
    if (info.nested()) {
      for (std::size_t i = 0; i < rows * matrix.groups; ++i) {
        const std::size_t lane = i / matrix.groups;
        const std::size_t g = i % matrix.groups;
        store_scale(type, matrix.scale(row_begin + lane, g).positive,
                    scales + (g * kPanelRows + lane) * d.scale_size);
      }
    } else {
      const std::size_t row_items = matrix.groups * d.sides;
      transpose(&matrix.scales[row_begin * row_items * d.scale_size], rows, row_items, d.scale_size,
                scales);
    }
    if (zeros_of_panel != 0) {
      transpose(&matrix.zero_points[row_begin * matrix.groups], rows, matrix.groups, 1, zeros);
    }
    d.for_units([&](std::size_t unit, std::size_t first, std::size_t values) {
      std::uint8_t* head = d.unit_at(panel, unit);
      std::memset(head, 0, d.unit_head);
      const auto copy_part = [&](const std::uint8_t* part, std::size_t bytes, std::size_t of_unit,
                                 std::uint8_t* to) {
        const std::size_t begin = unit * of_unit;
        std::memcpy(to, part + begin, std::min(of_unit, bytes - begin));
      };
      const std::size_t scales_of_unit = d.scales_in_unit * d.sides * kPanelRows * d.scale_size;
      copy_part(scales, scale_bytes_of_panel, scales_of_unit, head);
      if (zeros_of_panel != 0) {
        copy_part(zeros, zeros_of_panel, d.scales_in_unit * kPanelRows, head + scales_of_unit);
      }
      for (std::size_t begin = 0; begin < values / 2; begin += kPiece) {
        pack_codes(first / 2, begin, std::min(kPiece, values / 2 - begin), head + d.unit_head);
      }
    });
  });
  if (info.nested()) d.shape.scales = matrix.scales;
}

PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;

QuantizedMatrix PackedMatrix::unpack(Executor& executor) const {
  const Data& d = owned(data_, "packed matrix");
  const kernels::PackedPanels& p = d.panels;
  QuantizedMatrix out(d.shape.format, d.shape.rows, d.shape.cols);
  out.tensor = d.shape.tensor;
  out.nested_scales = d.shape.nested_scales;
  out.nested_offset = d.shape.nested_offset;
  out.offsets = d.shape.offsets;
  out.nested_offsets = d.shape.nested_offsets;
  if (!d.shape.scales.empty()) out.scales = d.shape.scales;
  const bool copy_scales = d.shape.scales.empty();
  const std::size_t row_bytes = out.padded_cols / 2;
  executor.parallel_for(d.panel_count, [&](std::size_t panel) {
    const std::size_t row_end = std::min(out.rows, (panel + 1) * kPanelRows);
    d.for_units([&](std::size_t unit, std::size_t first, std::size_t values) {
      const std::uint8_t* scales = d.unit_at(panel, unit);
      const std::uint8_t* zeros = scales + (p.zeros - p.scales);
      const std::uint8_t* codes = scales + d.unit_head;
      const std::size_t first_scale = unit * d.scales_in_unit;
      const std::size_t end_scale = std::min(out.groups, first_scale + d.scales_in_unit);
      for (std::size_t row = panel * kPanelRows; row < row_end; ++row) {
        const std::size_t lane = row % kPanelRows;
        for (std::size_t i = 0; i < values / 2 && first / 2 + i < row_bytes; i += 4) {
          std::uint32_t eight = 0;
          std::memcpy(&eight, codes + (i / 4 * kPanelRows + lane) * 4, 4);
          eight = restore_nibbles(eight);
          std::memcpy(&out.codes[row * row_bytes + first / 2 + i], &eight,
                      std::min<std::size_t>(4, row_bytes - first / 2 - i));
        }
        for (std::size_t g = first_scale; g < end_scale; ++g) {
          const std::size_t index = row * out.groups + g;
          const std::size_t at = g - first_scale;
          for (std::size_t side = 0; copy_scales && side < d.sides; ++side) {
            std::memcpy(&out.scales[(index * d.sides + side) * d.scale_size],
                        scales + ((at * d.sides + side) * kPanelRows + lane) * d.scale_size,
                        d.scale_size);
          }
          if (p.layout == ScaleLayout::zero_point) {
            out.zero_points[index] = zeros[at * kPanelRows + lane];
          }
        }
      }
    });
  });
  return out;
}

std::size_t PackedMatrix::rows() const noexcept { return data_ ? data_->shape.rows : 0; }
std::size_t PackedMatrix::cols() const noexcept { return data_ ? data_->shape.cols : 0; }
std::size_t PackedMatrix::padded_cols() const noexcept { return data_ ? data_->padded_cols : 0; }
std::size_t PackedMatrix::bytes() const noexcept { return data_ ? data_->buffer.held() : 0; }
const kernels::PackedPanels& PackedMatrix::panels() const noexcept {
  static constexpr kernels::PackedPanels kNone{};
  return data_ ? data_->panels : kNone;
}

kernels::PackedPanels PackedMatrix::panels_for(const kernels::KernelTable& target) const noexcept {
  kernels::PackedPanels panels = this->panels();
  if (data_) {
    set_levels(panels, kernel_levels(data_->shape.format.info()), panels.layout, target);
  }
  return panels;
}

}  // namespace nybble
