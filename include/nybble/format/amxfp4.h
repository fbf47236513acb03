#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "nybble/format/block_format.h"
#include "nybble/format/fp4.h"

namespace nybble {

inline constexpr char kAmxfp4Name[] = "amxfp4";

/// AMXFP4's scales (arXiv 2411.09909): a group has one scale for its positive elements, max / 6,
/// and one for its negative ones, -min / 6, each in FP8 E5M2 with ties away from zero, or in
/// another type.
///
/// As the reference (MX-QLLM) stores them: the positive scale is 0 when nothing is positive; the
/// negative one, which zeros use too, is 1 when nothing is negative and 0 when everything is
/// positive. E5M2 reaches from 4.6e-5 to 344064 in group maxima: below, a sign flushes to zero,
/// above, values clip. Where E8M0's rule leaves f32 (`even` from 1.75 * 2^127) the scale is NaN and
/// so are the elements of that sign alone, zeros being negative. `tensor_range` adds a power-of-two
/// tensor scale that moves any tensor's maximum to 2^13 .. 2^14 scales, for which 28 octaves of
/// normal range remain below (E4M3: to 2^7 .. 2^8, and 14 octaves).
struct SignSplitScale : PlainRule {
  ScaleType type = ScaleType::e5m2;
  ExponentRule rule = ExponentRule::floor;  ///< only for e8m0: floor = PoT, even = PoT-R
  bool search = false;  ///< neighbouring scale codes, by squared error, each sign alone
  bool tensor_range = false;

  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::sign_split; }
  [[nodiscard]] ScaleType scale_type() const { return type; }
  [[nodiscard]] TensorScale tensor_scale(float amax, float peak) const {
    if (!tensor_range || amax == 0) return {};
    // At least the smallest normal number: the quotient may underflow, and 0 has no exponent.
    const float full = std::max(amax / peak, std::numeric_limits<float>::min());
    const bool e4m3 = type == ScaleType::e4m3 || type == ScaleType::e4m3x480;
    const int exponent = std::clamp(std::ilogb(full) - (e4m3 ? 7 : 13), -126, 127);
    return {std::ldexp(1.0F, exponent)};
  }
  [[nodiscard]] ScaleChoice choose(GroupRange range, TensorScale tensor, float peak) const {
    return candidate(range, tensor, peak, 0);
  }
  [[nodiscard]] int candidate_count() const { return search ? static_cast<int>(kSteps.size()) : 1; }
  /// Candidates vary both signs' scales at once; the search keeps the better of each.
  [[nodiscard]] ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                      int index) const {
    ScaleChoice out;
    if (std::isnan(range.max)) {
      out.scale = {range.max, range.max, 0};
    } else {
      const int step = kSteps[static_cast<std::size_t>(index)];
      if (range.max > 0) out.scale.positive = side(range.max, tensor, peak, step);
      if (range.min < 0) {
        out.scale.negative = side(-range.min, tensor, peak, step);
      } else if (range.min == 0) {
        out.scale.negative = type == ScaleType::e8m0 ? E8M0{0}.to_float() : 1.0F;
      }
    }
    out.encode_positive = out.scale.positive * tensor.scale;
    out.encode_negative = out.scale.negative * tensor.scale;
    // Divided by NaN, positive elements would get the lowest level, whose sign has the other scale.
    if (std::isnan(out.scale.positive) && !std::isnan(out.scale.negative)) {
      out.encode_positive = std::numeric_limits<float>::min();
    }
    return out;
  }

 private:
  static constexpr std::array<int, 5> kSteps = {0, 1, -1, 2, -2};

  [[nodiscard]] float side(float magnitude, TensorScale tensor, float peak, int step) const {
    magnitude /= tensor.scale;
    float scale = 0;
    if (type == ScaleType::e8m0) {
      scale = E8M0{exponent_scale(rule, magnitude, peak)}.to_float();
    } else {
      const float exact = magnitude / peak;
      scale = round_scale(type, exact == 0 ? 1.0F : exact, TieRule::away);
      if (type == ScaleType::e4m3x480 && scale == 0) scale = 1;
    }
    return step == 0 ? scale : neighbour_scale(type, scale, step);
  }
};

/// AMXFP4: E2M1 elements with ties away from zero, group 32; 4.5 bits with 8-bit scales. Products
/// of an element and an E5M2 or E4M3 scale have at most 6 significant bits: exact in bf16.
using Amxfp4 = BlockFormat<E2M1Levels<kAmxfp4Name>, SignSplitScale>;

}  // namespace nybble
