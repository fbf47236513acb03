#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "nybble/numeric/minifloat.h"

namespace nybble {

/// IEEE 754 binary16: s eeeee mmmmmmmmmm, bias 15.
///
/// Largest 65504 (0x7BFF), smallest normal 2^-14, smallest subnormal 2^-24. Field 31 is infinity
/// (0x7C00) and NaN. Source: IEEE 754-2019, section 3.6.
struct Float16 {
  std::uint16_t bits;

  static constexpr float kMax = 65504.0f;

  /// Nearest, ties to even. 65520 and above become infinity. A NaN stays a (quiet) NaN and keeps
  /// its sign and the upper bits of its payload.
  [[nodiscard]] static constexpr Float16 from_float(float value) noexcept {
    const std::uint32_t sign = sign_at(value, 15);
    if (is_nan_bits(value)) {
      const std::uint32_t payload = (std::bit_cast<std::uint32_t>(value) >> 13) & 0x03FFu;
      return {static_cast<std::uint16_t>(sign | 0x7E00u | payload)};
    }
    const std::uint32_t code = MiniFloat<10, 15>::nearest_code(value, TieRule::even);
    return {static_cast<std::uint16_t>(sign | std::min(code, 0x7C00u))};
  }

  /// Exact. A NaN keeps its sign and payload.
  [[nodiscard]] constexpr float to_float() const noexcept {
    const std::uint32_t sign = (bits & 0x8000u) << 16;
    const std::uint32_t code = bits & 0x7FFFu;
    if (code >= 0x7C00u) {
      return std::bit_cast<float>(sign | 0x7F800000u | ((code & 0x03FFu) << 13));
    }
    const float magnitude = MiniFloat<10, 15>::value(code);
    return with_sign(magnitude, sign != 0);
  }
};

}  // namespace nybble
