#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "nybble/numeric/minifloat.h"

namespace nybble {

/// FP8 E5M2: s eeeee mm, bias 15; the upper half of an IEEE binary16.
///
/// Largest 57344 (0x7B), smallest normal 2^-14, smallest subnormal 2^-16. Infinity is 0x7C; 0x7D,
/// 0x7E and 0x7F are NaN. Source: OCP 8-bit Floating Point Specification (OFP8) v1.0.
struct E5M2 {
  std::uint8_t bits;

  static constexpr float kMax = 57344.0f;

  /// Nearest, saturating: what exceeds +-57344, infinity included, becomes +-57344. NaN becomes
  /// 0x7F with the sign of `value`, the NaN that PyTorch writes.
  [[nodiscard]] static constexpr E5M2 from_float(float value,
                                                 TieRule ties = TieRule::even) noexcept {
    const std::uint32_t code = MiniFloat<2, 15>::nearest_code(value, ties);
    return with_sign_of(value, is_nan_bits(value) ? 0x7Fu : std::min(code, 0x7Bu));
  }

  /// PyTorch's cast to float8_e5m2: nearest, ties to even, and from 61440 on infinity. NaN becomes
  /// 0x7F with the sign of `value`.
  [[nodiscard]] static constexpr E5M2 from_float_unsaturated(float value) noexcept {
    const std::uint32_t code = MiniFloat<2, 15>::nearest_code(value, TieRule::even);
    return with_sign_of(value, is_nan_bits(value) ? 0x7Fu : std::min(code, 0x7Cu));
  }

  /// Exact.
  [[nodiscard]] constexpr float to_float() const noexcept {
    const std::uint32_t code = bits & 0x7Fu;
    float magnitude = MiniFloat<2, 15>::value(code);
    if (code >= 0x7Cu) magnitude = std::bit_cast<float>(code == 0x7Cu ? 0x7F800000u : 0x7FC00000u);
    return with_sign(magnitude, (bits & 0x80u) != 0);
  }

 private:
  static constexpr E5M2 with_sign_of(float value, std::uint32_t code) noexcept {
    return {static_cast<std::uint8_t>(sign_at(value, 7) | code)};
  }
};

}  // namespace nybble
