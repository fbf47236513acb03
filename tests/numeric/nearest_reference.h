#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "nybble/numeric/rounding.h"

namespace nybble::test {

inline constexpr std::array<TieRule, 3> kTieRules = {TieRule::even, TieRule::away, TieRule::zero};

/// The values of magnitude codes 0 .. count - 1 of a small float, from the definition in f64.
inline std::vector<double> minifloat_values(std::size_t count, int mantissa_bits, int bias) {
  std::vector<double> values(count);
  const int steps = 1 << mantissa_bits;
  for (std::size_t i = 0; i < count; ++i) {
    const int field = static_cast<int>(i) / steps;
    const int mantissa = static_cast<int>(i) % steps;
    values[i] = field == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                           : std::ldexp(steps + mantissa, field - bias - mantissa_bits);
  }
  return values;
}

/// The index of the value nearest to |x| by binary search and comparison of distances in f64 (they
/// are exact for the values used here). Beyond the last value it is the last index.
inline std::uint32_t nearest_index(const std::vector<double>& values, double x, TieRule ties) {
  const double magnitude = std::fabs(x);
  const auto upper = std::lower_bound(values.begin(), values.end(), magnitude);
  if (upper == values.end()) return static_cast<std::uint32_t>(values.size() - 1);
  const auto high = static_cast<std::uint32_t>(upper - values.begin());
  if (high == 0) return 0;
  const double below = magnitude - values[high - 1];
  const double above = values[high] - magnitude;
  if (below < above) return high - 1;
  if (above < below) return high;
  switch (ties) {
    case TieRule::even:
      return high % 2 == 0 ? high : high - 1;
    case TieRule::away:
      return high;
    case TieRule::zero:
      return high - 1;
  }
  return high;
}

/// Where rounding can go wrong: each value and each midpoint (which f32 holds when the format is
/// two bits narrower), their f32 neighbours on both sides, and the extremes of f32, in both signs.
inline std::vector<float> critical_inputs(const std::vector<double>& values) {
  std::vector<float> centres = {std::numeric_limits<float>::denorm_min(),
                                std::numeric_limits<float>::min(),
                                std::numeric_limits<float>::max()};
  for (std::size_t i = 0; i < values.size(); ++i) {
    centres.push_back(static_cast<float>(values[i]));
    if (i > 0) centres.push_back(static_cast<float>((values[i - 1] + values[i]) / 2));
  }
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> inputs;
  for (const float centre : centres) {
    for (const float x :
         {std::nextafterf(centre, -infinity), centre, std::nextafterf(centre, infinity)}) {
      inputs.push_back(x);
      inputs.push_back(-x);
    }
  }
  return inputs;
}

}  // namespace nybble::test
