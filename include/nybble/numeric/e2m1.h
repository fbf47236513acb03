#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "nybble/numeric/minifloat.h"

namespace nybble {

/// FP4 E2M1 by code: s ee m, bias 1, bit 3 the sign; code 8 is -0.0. No infinity and no NaN.
/// Source: OCP Microscaling Formats (MX) v1.0.
inline constexpr std::array<float, 16> kE2M1Levels = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,
                                                      4.0f,  6.0f,  -0.0f, -0.5f, -1.0f, -1.5f,
                                                      -2.0f, -3.0f, -4.0f, -6.0f};

/// The E2M1 code (0 to 15) nearest to `value`, saturating at +-6, infinity included. The sign bit
/// is set if and only if value < 0: -0.0 gives 0, and a negative value that rounds to zero gives 8.
/// NaN gives 7 (+6), so refuse NaN before it gets here.
[[nodiscard]] constexpr std::uint8_t e2m1_from_float(float value,
                                                     TieRule ties = TieRule::even) noexcept {
  const std::uint32_t code = std::min(MiniFloat<1, 1>::nearest_code(value, ties), 7u);
  // value < 0 by its bits, which a program that takes denormals for zero does not change: behind
  // -0, up to -infinity.
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint8_t>(code | (bits > 0x80000000u && bits <= 0xFF800000u ? 8u : 0u));
}

}  // namespace nybble
