#include "src/linear/activations.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>

#include "nybble/format/scale.h"
#include "nybble/numeric/bfloat16.h"
#include "src/quantize/encode_row.h"
#include "src/tensor/carver.h"
#include "src/tensor/integer_levels.h"

namespace nybble {

namespace {

/// `count` dwords to places `stride` dwords apart.
void spread(const void* from, std::size_t count, std::uint32_t* to, std::size_t stride) {
  const auto* bytes = static_cast<const std::byte*>(from);
  if (stride == 1) {
    std::memcpy(to, bytes, 4 * count);
    return;
  }
  for (std::size_t i = 0; i < count; ++i, to += stride) std::memcpy(to, bytes + 4 * i, 4);
}

/// `count` bf16 as dwords of two, `stride` dwords apart: of four values the first and the third,
/// then the second and the fourth, which is how weights come out of their nibbles.
void spread_pairs(const std::uint16_t* from, std::size_t count, std::uint32_t* to,
                  std::size_t stride) {
  // Counted in fours, which compilers vectorise.
  const auto swapped = [&](std::size_t i) {
    std::uint64_t four = 0;
    std::memcpy(&four, from + 4 * i, 8);
    const std::uint64_t t = (four ^ (four >> 16)) & 0xFFFF0000U;
    return four ^ t ^ (t << 16);
  };
  if (stride == 1) {
    for (std::size_t i = 0; i < count / 4; ++i) {
      const std::uint64_t four = swapped(i);
      std::memcpy(to + 2 * i, &four, 8);
    }
    return;
  }
  for (std::size_t i = 0; i < count / 4; ++i, to += 2 * stride) {
    const std::uint64_t four = swapped(i);
    to[0] = static_cast<std::uint32_t>(four);
    to[stride] = static_cast<std::uint32_t>(four >> 32);
  }
}

}  // namespace

ActivationPacker::ActivationPacker(const kernels::KernelTable& table,
                                   const kernels::PackedPanels& weight, ActivationKind kind,
                                   std::size_t cols, std::optional<AnyFormat> format,
                                   std::size_t scale_group)
    : table_(&table),
      kind_(kind),
      format_(std::move(format)),
      cols_(cols),
      padded_(weight.groups * weight.group),
      dot_group_(weight.group),
      scale_group_(scale_group == 0 ? padded_ : scale_group),
      output_factor_(weight.integer_step * weight.tensor_scale),
      weight_offset_(weight.offset) {
  const bool pairs = kind == ActivationKind::bf16 || kind == ActivationKind::format_bf16;
  dwords_ = has_scales() ? padded_ / 4 : padded_ / (pairs ? table.a16_pair : 1);
  if (format_) {
    const IntegerLevels integers = integer_levels(format_->info().levels);
    std::copy(integers.integer.begin(), integers.integer.end(), format_integers_);
    format_step_ = integers.step;
    group_scales_ = has_scales() && format_->info().scale_type != ScaleType::e8m0;
    scale_group_ = format_->info().group == 0 ? padded_ : format_->info().group;
  }
}

std::size_t ActivationPacker::scratch_bytes() const {
  // The row as f32 and bf16 (or int8), scales and sums per dot group, then encode()'s.
  const std::size_t groups = padded_ / dot_group_;
  const std::size_t scale_groups = (cols_ + scale_group_ - 1) / scale_group_;
  return round_to_cache_line(padded_ * 4) + round_to_cache_line(padded_ * 2) +
         3 * round_to_cache_line(groups * 4) + round_to_cache_line(scale_groups * 4) +
         round_to_cache_line(cols_) + round_to_cache_line(scale_groups * sizeof(GroupRange)) +
         round_to_cache_line(scale_groups * sizeof(ScaleChoice));
}

struct ActivationPacker::Encoded {
  std::span<std::uint8_t> codes;
  std::span<ScaleChoice> choices;
  TensorScale tensor;
};

ActivationPacker::Encoded ActivationPacker::encode(const float* x, std::byte* scratch) const {
  Carver carver(scratch);
  const std::size_t groups = (cols_ + scale_group_ - 1) / scale_group_;
  Encoded out{carver.take<std::uint8_t>(cols_), carver.take<ScaleChoice>(groups), {}};
  if (format_->info().tensor_scale) {
    // A row is its own tensor, so that results do not depend on what else is in the batch.
    GroupRange row;
    table_->group_ranges({x, cols_, cols_, &row});
    out.tensor = format_->tensor_scale(std::isnan(row.max) ? 0 : absmax(row));
  }
  encode_row(*table_, *format_, x, cols_, scale_group_, out.tensor, {},
             {carver.take<GroupRange>(groups), out.choices}, out.codes.data());
  return out;
}

/// One row for integer dots; all but q and row_scale have one entry a dot group.
struct ActivationPacker::IntegerRow {
  std::span<std::int8_t> q;
  std::span<float> shifts, scales;
  std::span<std::int32_t> sums;
  float& row_scale;
};

void ActivationPacker::to_integers(const float* x, std::byte* scratch,
                                   const IntegerRow& row) const {
  Carver carver(scratch);
  const std::size_t scale_groups = (cols_ + scale_group_ - 1) / scale_group_;
  const auto of_groups = carver.take<float>(scale_groups);
  std::fill(row.q.begin() + static_cast<std::ptrdiff_t>(cols_), row.q.end(), std::int8_t{0});
  std::fill(row.sums.begin(), row.sums.end(), 0);
  std::fill(row.shifts.begin(), row.shifts.end(), 1.0F);
  std::fill(row.scales.begin(), row.scales.end(), 0.0F);
  if (!format_) {
    table_->quantize_int8({x, cols_, scale_group_, dot_group_, row.q.data(), &row.row_scale,
                           of_groups.data(), row.sums.data()});
  } else {
    const Encoded encoded = encode(x, carver.rest());
    table_->codes_to_int8({encoded.codes.data(), cols_, scale_group_, dot_group_, format_integers_,
                           encoded.choices.data(), row.q.data(), row.sums.data()});
    float largest = 0;
    row.row_scale = encoded.tensor.scale * format_step_;
    for (std::size_t g = 0; g < scale_groups; ++g) {
      of_groups[g] = encoded.choices[g].scale.positive;
      largest = std::max(largest, of_groups[g]);
      if (std::isnan(of_groups[g])) row.row_scale = of_groups[g];
    }
    if (!group_scales_) {
      // Powers of two: exact shifts from the row's largest, within what f32 holds beside kMagic.
      row.row_scale *= largest;
      for (float& scale : of_groups) scale = std::max(scale / largest, 0x1p-120F);
    }
  }
  const auto& to = group_scales_ ? row.scales : row.shifts;
  const std::size_t shared = scale_group_ / dot_group_;  // dot groups with the same scale
  const std::size_t groups = (cols_ + dot_group_ - 1) / dot_group_;
  for (std::size_t g = 0, from = 0; g < groups; ++from) {
    for (const std::size_t end = std::min(groups, g + shared); g < end; ++g) {
      to[g] = of_groups[from];
    }
  }
}

void ActivationPacker::to_floats(const float* x, std::byte* scratch, float* values) const {
  std::fill(values + cols_, values + padded_, 0.0F);
  if (!format_) {
    std::copy(x, x + cols_, values);
    return;
  }
  const Encoded encoded = encode(x, scratch);
  table_->codes_to_float({encoded.codes.data(), cols_, scale_group_, format_->info().levels.data(),
                          encoded.choices.data(), encoded.tensor.scale, values});
}

void ActivationPacker::to_halves(const float* x, std::byte* scratch, std::uint16_t* bits) const {
  std::fill(bits + cols_, bits + padded_, std::uint16_t{0});
  if (!format_) {
    table_->round_bf16({x, cols_, bits});
    return;
  }
  const Encoded encoded = encode(x, scratch);
  table_->codes_to_bf16({encoded.codes.data(), cols_, scale_group_, format_->info().levels.data(),
                         encoded.choices.data(), encoded.tensor.scale, bits});
}

PackedActivations ActivationPacker::carve(Carver& carver, std::size_t m) const {
  PackedActivations out;
  out.x = carver.take<std::uint32_t>(m, dwords_).data();
  if (!has_scales()) return out;
  const std::size_t groups = padded_ / dot_group_;
  out.x_start = carver.take<std::int32_t>(m, groups).data();
  out.x_magic = carver.take<float>(m, groups).data();
  out.x_bias = carver.take<std::int32_t>(m, groups).data();
  if (group_scales_) out.x_scales = carver.take<float>(m, groups).data();
  out.row_scales = carver.take<float>(m).data();
  return out;
}

std::size_t ActivationPacker::packed_bytes(std::size_t m) const {
  Carver counter(nullptr);
  carve(counter, m);
  return counter.used();
}

PackedActivations ActivationPacker::place(std::byte* memory, std::size_t m) const {
  Carver carver(memory);
  return carve(carver, m);
}

kernels::GemmArgs ActivationPacker::gemm_args(const kernels::PackedPanels& weight, std::size_t m,
                                              const PackedActivations& x, float* y,
                                              std::size_t y_stride) const {
  return {.weight = &weight,
          .panel_begin = 0,
          .panel_end = (weight.rows + kernels::kPanelRows - 1) / kernels::kPanelRows,
          .m = m,
          .x = x.x,
          .dwords = dwords_,
          .x_start = x.x_start,
          .x_magic = x.x_magic,
          .x_bias = x.x_bias,
          .x_scales = x.x_scales,
          .row_scales = x.row_scales,
          .y = y,
          .y_stride = y_stride};
}

void ActivationPacker::pack(const float* x, std::size_t m, std::size_t m_total, std::byte* scratch,
                            const PackedActivations& out) const {
  // The tile that row m falls into: all but the last few are of the largest size.
  const std::size_t full =
      m_total < kernels::kLastRows ? 0 : std::min(m, m_total - kernels::kLastRows);
  std::size_t begin = full / table_->max_tile * table_->max_tile;
  std::size_t rows = kernels::tile_rows(m_total - begin, table_->max_tile);
  while (begin + rows <= m) {
    begin += rows;
    rows = kernels::tile_rows(m_total - begin, table_->max_tile);
  }
  const std::size_t r = m - begin;
  const std::size_t groups = padded_ / dot_group_;
  Carver carver(scratch);
  std::uint32_t* to = out.x + begin * dwords_ + r;
  if (kind_ == ActivationKind::f32 || kind_ == ActivationKind::format_f32) {
    const auto values = carver.take<float>(padded_);
    to_floats(x, carver.rest(), values.data());
    return spread(values.data(), dwords_, to, rows);
  }
  if (!has_scales()) {
    const auto halves = carver.take<std::uint16_t>(padded_);
    if (table_->a16_pair == 2) {
      to_halves(x, carver.rest(), halves.data());
      return spread_pairs(halves.data(), padded_, to, rows);
    }
    const auto values = carver.take<float>(padded_);
    to_halves(x, carver.rest(), halves.data());
    for (std::size_t i = 0; i < padded_; ++i) values[i] = BFloat16{halves[i]}.to_float();
    return spread(values.data(), dwords_, to, rows);
  }
  const IntegerRow row{carver.take<std::int8_t>(padded_), carver.take<float>(groups),
                       carver.take<float>(groups), carver.take<std::int32_t>(groups),
                       out.row_scales[m]};
  to_integers(x, carver.rest(), row);
  out.row_scales[m] *= output_factor_;
  for (std::size_t g = 0, at = begin * groups + r; g < groups; ++g, at += rows) {
    const float magic = kernels::kMagic * row.shifts[g];
    out.x_magic[at] = magic;
    out.x_start[at] = std::bit_cast<std::int32_t>(magic) - weight_offset_ * row.sums[g];
    out.x_bias[at] = -row.sums[g];
    if (group_scales_) out.x_scales[at] = row.scales[g];
  }
  spread(row.q.data(), dwords_, to, rows);
}

}  // namespace nybble
