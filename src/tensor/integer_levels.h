#pragma once

#include <array>
#include <cstdint>

#include "kernels/kernels.h"

namespace nybble {

/// A codebook as small integers: level ~ integer * step, |integer| <= 127.
struct IntegerLevels {
  std::array<std::int8_t, 16> integer{};
  float step = 1;
  bool exact = false;  ///< level == integer * step for every code
};

/// Exact where a small multiple of every level is an integer; else level * 127 / peak rounded,
/// which moves a level by at most peak / 254.
IntegerLevels integer_levels(const std::array<float, 16>& levels);

/// The levels of a format as kernels multiply them: those of formats with offsets are moved by
/// -kMiddleLevel, which halves what rounded activations cost; GroupOffsets adds it again.
std::array<float, 16> kernel_levels(const FormatInfo& info);

/// Fills in what the kernels of `target` need to know of a codebook: `layout` and all members about
/// levels. Reads one_table.
void set_levels(kernels::PackedPanels& panels, const std::array<float, 16>& levels,
                ScaleLayout layout, const kernels::KernelTable& target);

}  // namespace nybble
