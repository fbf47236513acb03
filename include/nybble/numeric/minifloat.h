#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "nybble/numeric/rounding.h"

namespace nybble {

/// The magnitudes (no sign bit) of a float narrower than f32, as IEEE 754 lays them out:
///
///     code = field << MantissaBits | mantissa
///     value = 1.mantissa * 2^(field - Bias)   for field > 0
///           = 0.mantissa * 2^(1 - Bias)       for field = 0, the subnormals
///
/// Codes grow with their values and have no end here: which code is the largest number, and which
/// are infinity or NaN, is the business of the types built on this one (E4M3, Float16, ...).
template <int MantissaBits, int Bias>
struct MiniFloat {
  static_assert(MantissaBits >= 1 && MantissaBits <= 22);
  static_assert(Bias >= 1 && Bias <= 127);

  /// The code nearest to |value|, subnormals kept. Past the largest number of a format the result
  /// is larger than that number's code, so std::min saturates, and infinity exceeds every number.
  /// NaN gives a result larger than or equal to infinity's; test for it first where it matters.
  /// Integer arithmetic on the f32 bits: exact, and independent of the FPU's rounding mode.
  [[nodiscard]] static constexpr std::uint32_t nearest_code(float value, TieRule ties) noexcept {
    constexpr std::uint32_t min_normal_field = 128 - Bias;  // f32 exponent field of 2^(1 - Bias)
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu;
    const auto tie_up = [&](std::uint32_t last_bit) {
      return ties == TieRule::even ? last_bit : static_cast<std::uint32_t>(ties == TieRule::away);
    };
    // Most are normal here, too: one rounding of the bits, by a shift that is known.
    if (magnitude >= min_normal_field << 23) {
      constexpr int normal_shift = 23 - MantissaBits;
      const std::uint32_t half = (1u << (normal_shift - 1)) - 1u;
      return ((magnitude + half + tie_up(magnitude >> normal_shift & 1u)) >> normal_shift) -
             ((min_normal_field - 1) << MantissaBits);
    }
    const std::uint32_t field = std::max(magnitude >> 23, 1u);
    const std::uint32_t implicit_bit = magnitude >= 0x00800000u ? 0x00800000u : 0u;
    const std::uint32_t significand = (magnitude & 0x007FFFFFu) | implicit_bit;
    const std::uint32_t base_field = std::max(field, min_normal_field);
    // A significand has 24 bits, so a shift by 25 already rounds every one of them to 0.
    const std::uint32_t shift = std::min<std::uint32_t>(23 - MantissaBits + base_field - field, 25);
    const std::uint32_t last_bit = (significand >> shift) & 1u;
    const std::uint32_t rounded =
        (significand + (1u << (shift - 1)) - 1u + tie_up(last_bit)) >> shift;
    // The implicit bit in `rounded` counts as one step of the field, and so does its carry.
    return ((base_field - min_normal_field) << MantissaBits) + rounded;
  }

  /// The value of a magnitude code, exactly. Needs a value below 2^128.
  [[nodiscard]] static constexpr float value(std::uint32_t code) noexcept {
    constexpr std::uint32_t field_offset = 127 - Bias;
    constexpr std::uint32_t min_normal_code = 1u << MantissaBits;
    if (code >= min_normal_code) {
      return std::bit_cast<float>((code + (field_offset << MantissaBits)) << (23 - MantissaBits));
    }
    // 1.mantissa - 1.0 is exact and, unlike a product of a tiny factor, needs no f32 subnormal.
    constexpr float min_normal = std::bit_cast<float>((field_offset + 1) << 23);
    const std::uint32_t bits = (code + ((field_offset + 1) << MantissaBits)) << (23 - MantissaBits);
    return std::bit_cast<float>(bits) - min_normal;
  }
};

/// Whether `value` is NaN, also where the compiler was told that there are none.
[[nodiscard]] constexpr bool is_nan_bits(float value) noexcept {
  return (std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu) > 0x7F800000u;
}

/// The sign bit of `value`, moved to bit `position`.
[[nodiscard]] constexpr std::uint32_t sign_at(float value, int position) noexcept {
  return (std::bit_cast<std::uint32_t>(value) >> 31) << position;
}

/// `magnitude` with a sign, -0.0 included, also where the compiler was told that zeros have none.
[[nodiscard]] constexpr float with_sign(float magnitude, bool negative) noexcept {
  const std::uint32_t sign = negative ? 0x80000000u : 0u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
}

}  // namespace nybble
