#pragma once

#include <bit>
#include <cstdint>

#include "nybble/numeric/minifloat.h"

namespace nybble {

/// bfloat16, the upper half of an f32: s eeeeeeee mmmmmmm, bias 127.
///
/// Largest 0x7F7F (about 3.39e38), smallest normal 2^-126, smallest subnormal 2^-133. Field 255 is
/// infinity (0x7F80) and NaN. Source: Intel, BFLOAT16 Hardware Numerics Definition (2018), except
/// that subnormals are kept as in PyTorch and not flushed to zero.
struct BFloat16 {
  std::uint16_t bits;

  /// Nearest, ties to even. What rounds past the largest number becomes infinity. A NaN stays a
  /// (quiet) NaN and keeps its sign and the upper bits of its payload.
  [[nodiscard]] static constexpr BFloat16 from_float(float value) noexcept {
    if (is_nan_bits(value)) {
      const std::uint32_t upper = std::bit_cast<std::uint32_t>(value) >> 16;
      return {static_cast<std::uint16_t>(upper | 0x0040u)};
    }
    const std::uint32_t code = MiniFloat<7, 127>::nearest_code(value, TieRule::even);
    return {static_cast<std::uint16_t>(sign_at(value, 15) | code)};
  }

  /// Exact.
  [[nodiscard]] constexpr float to_float() const noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

}  // namespace nybble
