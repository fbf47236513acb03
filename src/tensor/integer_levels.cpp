#include "src/tensor/integer_levels.h"

#include <algorithm>
#include <cmath>

namespace nybble {

IntegerLevels integer_levels(const std::array<float, 16>& levels) {
  IntegerLevels out;
  float peak = 0;
  for (const float level : levels) peak = std::max(peak, std::fabs(level));
  float factor = peak > 0 ? 127 / peak : 1;
  for (const float multiple : {1.0F, 2.0F, 3.0F, 4.0F, 6.0F, 8.0F, 12.0F, 16.0F}) {
    out.exact =
        peak * multiple <= 127 && std::all_of(levels.begin(), levels.end(), [&](float level) {
          return level * multiple == std::nearbyint(level * multiple);
        });
    if (out.exact) {
      factor = multiple;
      break;
    }
  }
  out.step = 1 / factor;
  for (std::size_t i = 0; i < 16; ++i) {
    out.integer[i] = static_cast<std::int8_t>(std::nearbyint(levels[i] * factor));
  }
  return out;
}

std::array<float, 16> kernel_levels(const FormatInfo& info) {
  std::array<float, 16> levels = info.levels;
  if (info.offsets) {
    for (float& level : levels) level -= kernels::kMiddleLevel;
  }
  return levels;
}

void set_levels(kernels::PackedPanels& panels, const std::array<float, 16>& levels,
                ScaleLayout layout, const kernels::KernelTable& target) {
  const IntegerLevels integers = integer_levels(levels);
  std::copy(levels.begin(), levels.end(), panels.levels);
  std::copy(integers.integer.begin(), integers.integer.end(), panels.integers);
  panels.integer_step = integers.step;
  panels.layout = layout;
  const auto [low, high] = std::minmax_element(panels.integers, panels.integers + 16);
  panels.signed_dot = false;
  switch (layout) {
    case ScaleLayout::symmetric:
      panels.offset = -std::min<int>(*low, 0);
      panels.signed_dot = *high + panels.offset > target.dot_limit;
      if (panels.signed_dot) panels.offset = 0;
      break;
    case ScaleLayout::zero_point:
      panels.offset = target.zero_point_offset;
      break;
    case ScaleLayout::sign_split:
      panels.offset = panels.one_table ? target.split_offset : 0;
      break;
  }
}

}  // namespace nybble
