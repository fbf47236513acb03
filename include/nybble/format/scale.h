#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>

#include "nybble/error.h"
#include "nybble/format/exact_arithmetic.h"
#include "nybble/format/format.h"
#include "nybble/numeric/bfloat16.h"
#include "nybble/numeric/e4m3.h"
#include "nybble/numeric/e5m2.h"
#include "nybble/numeric/e8m0.h"
#include "nybble/numeric/float16.h"
#include "nybble/numeric/rounding.h"

namespace nybble {

/// A scale rule: from a group's range to its scale. `peak` is the codebook's largest |level|. A
/// rule may be asked for neighbours of its own choice (candidate), which is how searches work.
template <class R>
concept ScaleRule = requires(const R& rule, GroupRange range, TensorScale tensor, float peak) {
  { rule.layout() } -> std::same_as<ScaleLayout>;
  { rule.scale_type() } -> std::same_as<ScaleType>;
  { rule.reciprocal() } -> std::same_as<bool>;
  { rule.tensor_scale(peak, peak) } -> std::same_as<TensorScale>;
  { rule.choose(range, tensor, peak) } -> std::same_as<ScaleChoice>;
  { rule.candidate_count() } -> std::same_as<int>;
  { rule.candidate(range, tensor, peak, int{}) } -> std::same_as<ScaleChoice>;
};

/// max(|max|, |min|), never -0; NaN if the group is.
inline float absmax(GroupRange range) {
  if (std::isnan(range.max)) return range.max;
  return std::fabs(std::max(range.max, -range.min));
}

/// A positive float rounded to a stored type. Overflow saturates at the largest finite number, so
/// that a huge group clips instead of turning into Inf. Throws bad_option for a type that is none.
inline float round_scale(ScaleType type, float scale, TieRule ties = TieRule::even) {
  switch (type) {
    case ScaleType::f32:
      return scale;
    case ScaleType::f16:
      return Float16::from_float(std::isnan(scale) ? scale : std::min(scale, 65504.0F)).to_float();
    case ScaleType::bf16:
      return BFloat16::from_float(std::isnan(scale) ? scale : std::min(scale, 0x1.FEp127F))
          .to_float();
    case ScaleType::e8m0:
      return E8M0::from_float(scale).to_float();
    case ScaleType::e4m3:
      return E4M3::from_float(scale, ties).to_float();
    case ScaleType::e4m3x480:
      return std::isnan(scale) ? scale : E4M3x480::from_float(scale, ties).to_float();
    case ScaleType::e5m2:
      return E5M2::from_float(scale, ties).to_float();
  }
  throw Error(ErrorCode::bad_option, "scale type that is none");
}

/// The next representable positive scale `steps` codes above (or below) one that is exact in
/// `type`. f32 steps by 1/32 octave, which is as fine as a search needs.
inline float neighbour_scale(ScaleType type, float scale, int steps) {
  if (!(scale > 0)) return scale;
  const auto step_code = [&](int code, int lowest, int highest) {
    return std::clamp(code + steps, lowest, highest);
  };
  switch (type) {
    case ScaleType::e8m0:
      return E8M0::from_exponent(std::ilogb(scale) + steps).to_float();
    case ScaleType::e4m3:
      return E4M3{static_cast<std::uint8_t>(step_code(E4M3::from_float(scale).bits, 1, 0x7E))}
          .to_float();
    case ScaleType::e4m3x480:
      return E4M3x480{
          static_cast<std::uint8_t>(step_code(E4M3x480::from_float(scale).bits, 1, 0x7F))}
          .to_float();
    case ScaleType::e5m2:
      return E5M2{static_cast<std::uint8_t>(step_code(E5M2::from_float(scale).bits, 1, 0x7B))}
          .to_float();
    default:
      return round_scale(type, scale * std::exp2(static_cast<float>(steps) / 32.0F));
  }
}

/// The parts most rules share: nothing to search, no tensor scale, division.
struct PlainRule {
  [[nodiscard]] static bool reciprocal() { return false; }
  [[nodiscard]] static TensorScale tensor_scale(float /*amax*/, float /*peak*/) { return {}; }
  [[nodiscard]] static int candidate_count() { return 1; }
};

inline ScaleChoice symmetric_choice(float scale) { return {{scale, scale, 0}, scale, scale}; }

/// absmax / peak, stored in any type: the largest value maps to the largest level.
struct AbsmaxScale : PlainRule {
  ScaleType type = ScaleType::f16;

  explicit AbsmaxScale(ScaleType scale_type_value = ScaleType::f16) : type(scale_type_value) {}
  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::symmetric; }
  [[nodiscard]] ScaleType scale_type() const { return type; }
  [[nodiscard]] ScaleChoice choose(GroupRange range, TensorScale /*tensor*/, float peak) const {
    return symmetric_choice(round_scale(type, absmax(range) / peak));
  }
  [[nodiscard]] ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                      int /*index*/) const {
    return choose(range, tensor, peak);
  }
};

/// (max - min) / 15 with a zero point, zero always representable: what integer asymmetric
/// quantization does (GPTQ's convention: zero inside the range, zero point clamped to 0..15).
struct ZeroPointScale : PlainRule {
  ScaleType type = ScaleType::f16;

  explicit ZeroPointScale(ScaleType scale_type_value = ScaleType::f16) : type(scale_type_value) {}
  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::zero_point; }
  [[nodiscard]] ScaleType scale_type() const { return type; }
  [[nodiscard]] ScaleChoice choose(GroupRange range, TensorScale /*tensor*/, float /*peak*/) const {
    const float low = std::min(range.min, 0.0F);
    const float high = std::isnan(range.max) ? range.max : std::max(range.max, 0.0F);
    // Divided before subtracting: max - min of a full-range f32 group would overflow. Never -0.
    ScaleChoice out = symmetric_choice(round_scale(type, std::fabs(high / 15 - low / 15)));
    if (out.scale.positive > 0) {
      out.scale.zero = std::clamp(std::nearbyint(-low / out.scale.positive), 0.0F, 15.0F);
    }
    return out;
  }
  [[nodiscard]] ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                      int /*index*/) const {
    return choose(range, tensor, peak);
  }
};

/// How a group's maximum becomes a power of two. Checkpoints made with each of them exist.
enum class ExponentRule : std::uint8_t {
  floor,  ///< OCP MX v1.0 section 6.3: clips values in (peak, 2^(emax+1)) of the group
  even,   ///< exponent + 1 from mantissa 1.75 on: the maximum rounded to E2M1 first
  ceil,   ///< never clips, wastes range
  rceil,  ///< smallest power of two >= max / peak: what NVIDIA's conversion instructions do
};

/// E8M0 byte for a group maximum; 255 (NaN) for NaN and where rounding up leaves f32. Throws
/// bad_option for a rule that is none.
inline std::uint8_t exponent_scale(ExponentRule rule, float amax, float peak) {
  const auto bits = std::bit_cast<std::uint32_t>(amax);
  if (!std::isfinite(amax)) return 255;
  if (amax == 0) return 0;
  const int peak_exponent = static_cast<int>(std::bit_cast<std::uint32_t>(peak) >> 23) - 127;
  int byte = 0;
  switch (rule) {
    case ExponentRule::floor:
      byte = static_cast<int>(bits >> 23) - peak_exponent;
      break;
    case ExponentRule::even: {
      const std::uint32_t rounded = bits + 0x200000U;
      if (rounded >= 0x7F800000U) return 255;
      byte = static_cast<int>(rounded >> 23) - peak_exponent;
      break;
    }
    case ExponentRule::ceil:
      byte = static_cast<int>(bits >> 23) + ((bits & 0x7FFFFFU) != 0 ? 1 : 0) - peak_exponent;
      break;
    case ExponentRule::rceil: {
      // torchao multiplies by the rounded reciprocal; below 2^-126 only the upper half rounds up.
      const auto ratio = std::bit_cast<std::uint32_t>(amax * (1.0F / peak));
      const std::uint32_t exponent = ratio >> 23;
      const std::uint32_t mantissa = ratio & 0x7FFFFFU;
      byte = static_cast<int>(exponent) + (mantissa > (exponent == 0 ? 0x400000U : 0U) ? 1 : 0);
      break;
    }
    default:
      throw Error(ErrorCode::bad_option, "exponent rule that is none");
  }
  return static_cast<std::uint8_t>(std::clamp(byte, 0, 254));
}

/// Power-of-two scales, one byte a group (MX). `search`: the exponent or a neighbour of it, by
/// error.
struct PowerOfTwoScale : PlainRule {
  ExponentRule rule = ExponentRule::floor;
  bool search = false;

  explicit PowerOfTwoScale(ExponentRule exponent_rule = ExponentRule::floor, bool searched = false)
      : rule(exponent_rule), search(searched) {}
  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::symmetric; }
  [[nodiscard]] static ScaleType scale_type() { return ScaleType::e8m0; }
  [[nodiscard]] ScaleChoice choose(GroupRange range, TensorScale /*tensor*/, float peak) const {
    return symmetric_choice(E8M0{exponent_scale(rule, absmax(range), peak)}.to_float());
  }
  [[nodiscard]] int candidate_count() const { return search ? 3 : 1; }
  [[nodiscard]] ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                      int index) const {
    static constexpr int kSteps[] = {0, -1, 1};
    const float scale = choose(range, tensor, peak).scale.positive;
    return symmetric_choice(neighbour_scale(ScaleType::e8m0, scale, kSteps[index]));
  }
};

}  // namespace nybble
