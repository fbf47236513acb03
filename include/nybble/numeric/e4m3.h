#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "nybble/numeric/minifloat.h"

namespace nybble {

/// FP8 E4M3 of OCP ("fn"): s eeee mmm, bias 7.
///
/// Largest 448 (0x7E), smallest normal 2^-6, smallest subnormal 2^-9. NaN is 0x7F and 0xFF; there
/// is no infinity. NVFP4's unsigned UE4M3 scale is this encoding with the sign bit kept 0.
/// Source: OCP 8-bit Floating Point Specification (OFP8) v1.0.
struct E4M3 {
  std::uint8_t bits;

  static constexpr float kMax = 448.0f;

  /// Nearest, saturating: what exceeds +-448, infinity included, becomes +-448. NaN stays NaN.
  [[nodiscard]] static constexpr E4M3 from_float(float value,
                                                 TieRule ties = TieRule::even) noexcept {
    const std::uint32_t code = MiniFloat<3, 7>::nearest_code(value, ties);
    return with_sign_of(value, is_nan_bits(value) ? 0x7Fu : std::min(code, 0x7Eu));
  }

  /// PyTorch's cast to float8_e4m3fn before version 2.13: nearest, ties to even, and what rounds
  /// past 448 (above 464), infinity and NaN become NaN with the sign of `value`.
  [[nodiscard]] static constexpr E4M3 from_float_unsaturated(float value) noexcept {
    const std::uint32_t code = MiniFloat<3, 7>::nearest_code(value, TieRule::even);
    return with_sign_of(value, std::min(code, 0x7Fu));
  }

  /// Exact.
  [[nodiscard]] constexpr float to_float() const noexcept {
    const std::uint32_t code = bits & 0x7Fu;
    const float magnitude =
        code == 0x7Fu ? std::bit_cast<float>(0x7FC00000u) : MiniFloat<3, 7>::value(code);
    return with_sign(magnitude, (bits & 0x80u) != 0);
  }

 private:
  static constexpr E4M3 with_sign_of(float value, std::uint32_t code) noexcept {
    return {static_cast<std::uint8_t>(sign_at(value, 7) | code)};
  }
};

/// E4M3 without NaN: 0x7F is the number 480. Otherwise the layout of E4M3.
///
/// Source: scale mode 143 of the AMXFP4 paper's code, github:aiha-lab/MX-QLLM at 4fbe697.
struct E4M3x480 {
  std::uint8_t bits;

  static constexpr float kMax = 480.0f;

  /// Nearest, saturating at +-480. The format cannot hold NaN: a NaN input gives 0x7F, +480, so
  /// refuse NaN before it gets here.
  [[nodiscard]] static constexpr E4M3x480 from_float(float value,
                                                     TieRule ties = TieRule::away) noexcept {
    if (is_nan_bits(value)) return {0x7F};
    const std::uint32_t code = MiniFloat<3, 7>::nearest_code(value, ties);
    return {static_cast<std::uint8_t>(sign_at(value, 7) | std::min(code, 0x7Fu))};
  }

  /// Exact.
  [[nodiscard]] constexpr float to_float() const noexcept {
    const float magnitude = MiniFloat<3, 7>::value(bits & 0x7Fu);
    return with_sign(magnitude, (bits & 0x80u) != 0);
  }
};

}  // namespace nybble
