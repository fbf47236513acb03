#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "nybble/format/block_format.h"
#include "nybble/format/fp4.h"

namespace nybble {

/// NF4 (QLoRA, arXiv 2305.14314): 16 quantiles of a normal distribution scaled to [-1, 1], zero
/// exact. Table as published in bitsandbytes; blocks of 64 share one f32 scale, the absmax.
struct Nf4Levels {
  static constexpr const char* kName = "nf4";
  static constexpr std::array<float, 16> kLevels = {-1.0F,
                                                    -0.6961928009986877F,
                                                    -0.5250730514526367F,
                                                    -0.39491748809814453F,
                                                    -0.28444138169288635F,
                                                    -0.18477343022823334F,
                                                    -0.09105003625154495F,
                                                    0.0F,
                                                    0.07958029955625534F,
                                                    0.16093020141124725F,
                                                    0.24611230194568634F,
                                                    0.33791524171829224F,
                                                    0.44070982933044434F,
                                                    0.5626170039176941F,
                                                    0.7229568362236023F,
                                                    1.0F};
};

/// bitsandbytes' scale: the absmax itself; values are multiplied by its f32 reciprocal and a tie
/// goes to the lower level (default backend: bucketize at the f32 midpoints).
struct BnbScale : PlainRule {
  /// The smallest absmax it divides by; all-zero blocks keep a scale of 0.
  static constexpr float kSmallestAbsmax = 1e-38F;
  ScaleType type = ScaleType::f32;

  explicit BnbScale(ScaleType scale_type_value = ScaleType::f32) : type(scale_type_value) {}
  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::symmetric; }
  [[nodiscard]] ScaleType scale_type() const { return type; }
  [[nodiscard]] static bool reciprocal() { return true; }
  [[nodiscard]] ScaleChoice choose(GroupRange range, TensorScale /*tensor*/, float /*peak*/) const {
    const float scale = round_scale(type, absmax(range));
    const float inverse = scale == scale ? 1.0F / std::max(scale, kSmallestAbsmax) : scale;
    return {{scale, scale, 0}, inverse, inverse};
  }
  [[nodiscard]] ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                      int /*index*/) const {
    return choose(range, tensor, peak);
  }
};

using Nf4 = BlockFormat<Nf4Levels, BnbScale>;
using BnbFp4 = BlockFormat<BnbFp4Levels, BnbScale>;

/// Double quantization of scales (QLoRA; bitsandbytes' compress_statistics): scales minus their
/// mean become 8-bit codes of a fixed "dynamic" table, with an f32 absmax for each 256 of them.
inline constexpr std::size_t kNestedBlock = 256;

/// bitsandbytes' signed dynamic map: 7 decades, 2^i linearly spaced values in decade i, both signs,
/// plus 0 and 1; ascending.
const std::array<float, 256>& nested_table();

/// Double-quantizes `scales`: one code each, one nested scale per 256, and the offset (their mean).
/// Replaces each scale with the value its code decodes to.
void double_quantize(std::span<float> scales, std::span<std::uint8_t> codes,
                     std::span<float> nested_scales, float& offset);

}  // namespace nybble
