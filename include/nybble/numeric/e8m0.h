#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace nybble {

/// E8M0, the power-of-two scale of the OCP MX formats: value = 2^(bits - 127).
///
/// From 2^-127 (0x00) to 2^127 (0xFE); 0xFF is NaN. It has no zero, sign or infinity.
/// Source: OCP Microscaling Formats (MX) v1.0.
struct E8M0 {
  std::uint8_t bits;

  /// 2^exponent, with the exponent clamped to [-127, 127]. Never NaN.
  [[nodiscard]] static constexpr E8M0 from_exponent(int exponent) noexcept {
    return {static_cast<std::uint8_t>(std::clamp(exponent, -127, 127) + 127)};
  }

  /// PyTorch's cast to float8_e8m0fnu; the sign is ignored. A normal f32 goes to the nearest power
  /// of two, and ties (1.5 * 2^k) go up. What rounds past 2^127 (from 1.5 * 2^127), infinity and
  /// NaN become NaN. Subnormals go to 2^-127 up to 2^-127 itself, zero included, and to 2^-126
  /// above, because the cast rounds on the mantissa bits as if they had an implicit one.
  [[nodiscard]] static constexpr E8M0 from_float(float value) noexcept {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu;
    const std::uint32_t field = magnitude >> 23;
    if (field == 0xFFu) return {0xFF};
    const std::uint32_t tie_up = field > 0 ? 1u : 0u;
    return {static_cast<std::uint8_t>((magnitude + 0x003FFFFFu + tie_up) >> 23)};
  }

  /// Exact; 0x00 is the f32 subnormal 2^-127.
  [[nodiscard]] constexpr float to_float() const noexcept {
    if (bits == 0xFF) return std::bit_cast<float>(0x7FC00000u);
    if (bits == 0) return std::bit_cast<float>(0x00400000u);
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 23);
  }
};

}  // namespace nybble
