#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

#include "nybble/error.h"
#include "nybble/format/exact_arithmetic.h"
#include "nybble/format/format.h"
#include "nybble/numeric/rounding.h"

namespace nybble {

/// A codebook: the 16 values that a 4-bit code can stand for, before any scale. Levels need not be
/// sorted; two codes may stand for the same value (+0 and -0).
template <class C>
concept Codebook = requires {
  { C::kName } -> std::convertible_to<std::string_view>;
  { C::kLevels } -> std::convertible_to<std::array<float, 16>>;
};

/// The largest |level| of a codebook.
template <Codebook C>
constexpr float peak_level() {
  float peak = 0;
  for (const float level : C::kLevels) peak = std::max(peak, level < 0 ? -level : level);
  return peak;
}

/// The largest f32 below a finite x.
constexpr float next_below(float x) {
  if (x == 0) return -std::numeric_limits<float>::denorm_min();
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return std::bit_cast<float>(x > 0 ? bits - 1 : bits + 1);
}

/// Which of two neighbouring levels gets the exact midpoint.
enum class LevelTies : std::uint8_t {
  even,   ///< the one with the even code (E2M1: even mantissa; integers: even number)
  away,   ///< the larger magnitude
  zero,   ///< the smaller magnitude
  lower,  ///< the smaller value (bitsandbytes)
};

/// Throws bad_option for a rule that is none.
constexpr LevelTies level_ties(TieRule rule) {
  switch (rule) {
    case TieRule::even:
      return LevelTies::even;
    case TieRule::away:
      return LevelTies::away;
    case TieRule::zero:
      return LevelTies::zero;
  }
  throw Error(ErrorCode::bad_option, "tie rule that is none");
}

/// Thresholds at the f32 midpoints of neighbouring levels. NaN compares false everywhere and so
/// gets the lowest level: callers give NaN groups a NaN scale.
constexpr EncodeTable make_encode_table(const std::array<float, 16>& levels, LevelTies ties,
                                        ScaleLayout layout, bool reciprocal) {
  EncodeTable table;
  table.level = levels;
  table.layout = layout;
  table.reciprocal = reciprocal;
  for (std::size_t i = 0; i < 16; ++i) table.code[i] = static_cast<std::uint8_t>(i);
  const auto negative = [](float x) { return (std::bit_cast<std::uint32_t>(x) >> 31) != 0; };
  std::sort(table.code.begin(), table.code.end(), [&](std::uint8_t a, std::uint8_t b) {
    if (levels[a] != levels[b]) return levels[a] < levels[b];
    return negative(levels[a]) && !negative(levels[b]);  // -0 below +0
  });
  for (std::size_t i = 0; i < 15; ++i) {
    const std::uint8_t below_code = table.code[i];
    const std::uint8_t above_code = table.code[i + 1];
    const float below = levels[below_code];
    const float above = levels[above_code];
    const float middle = (below + above) / 2;
    bool above_wins = false;
    switch (ties) {
      case LevelTies::even:
        above_wins = above_code % 2 == 0;
        break;
      case LevelTies::away:
        above_wins = middle > 0;
        break;
      case LevelTies::zero:
        above_wins = middle < 0;
        break;
      case LevelTies::lower:
        break;
    }
    // -0 and +0: anything that is not negative, -0.0 included, is +0.
    if (below == 0 && above == 0) above_wins = true;
    table.threshold[i] = above_wins ? next_below(middle) : middle;
  }
  return table;
}

/// Scalar encode of an already scaled value: the definition the SIMD encoders are tested against.
constexpr std::uint8_t encode_scaled(const EncodeTable& table, float z) {
  std::size_t rank = 0;
  for (const float threshold : table.threshold) rank += z > threshold ? 1U : 0U;
  return table.code[rank];
}

/// The scaled value of a zero: zero whatever its scale (0/0 included). Only where one sign alone
/// has a NaN for a scale there are two zeros to choose from. They share the scale of negative
/// elements: -0 where that is a number, else NaN, which gets the lowest level.
inline float zero_scaled(const ScaleChoice& choice) {
  const bool positive_nan = std::isnan(choice.scale.positive);
  const bool negative_nan = std::isnan(choice.scale.negative);
  if (positive_nan == negative_nan) return 0;
  return negative_nan ? std::numeric_limits<float>::quiet_NaN()
                      : -std::numeric_limits<float>::min();
}

/// Scalar encode of x under a chosen scale.
inline std::uint8_t encode_value(const EncodeTable& table, const ScaleChoice& choice, float x) {
  const float by = x > 0 ? choice.encode_positive : choice.encode_negative;
  float z = zero_scaled(choice);
  if (x != 0) z = table.reciprocal ? x * by : x / by;
  if (table.layout != ScaleLayout::zero_point) return encode_scaled(table, z);
  const float code = std::nearbyint(z) + choice.scale.zero;
  // Written so that NaN becomes 0.
  if (!(code > 0)) return 0;
  return code < 15 ? static_cast<std::uint8_t>(code) : std::uint8_t{15};
}

}  // namespace nybble
