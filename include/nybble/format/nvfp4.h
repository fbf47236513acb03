#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "nybble/format/block_format.h"
#include "nybble/format/fp4.h"

namespace nybble {

inline constexpr char kNvfp4Name[] = "nvfp4";

/// NVFP4's two levels: an E4M3 scale per block of 16 and one f32 multiplier per tensor, absmax /
/// (6 * 448), which makes the largest block scale 448. Arithmetic in the order of NVIDIA's
/// ModelOpt: an all-zero block stores 1.0; values are divided by f32(block scale * tensor scale).
/// Where a file held 1 / tensor scale (TensorScale::divisor), values decode in the order of
/// compressed-tensors, level * f32(block scale / divisor); kernels multiply by the tensor scale
/// whatever the file, which can differ from that in the last bit.
struct Nvfp4Scale : PlainRule {
  /// The tensor scale is the reciprocal of an f32 number, for files that store that. Of six f32
  /// numbers, one is not.
  bool divisor = false;

  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::symmetric; }
  [[nodiscard]] static ScaleType scale_type() { return ScaleType::e4m3; }
  [[nodiscard]] TensorScale tensor_scale(float amax, float peak) const {
    if (divisor) {
      constexpr float kMost = std::numeric_limits<float>::max() / 4;  // whose reciprocal is normal
      const float number = amax == 0 ? 1.0F : std::min(peak * E4M3::kMax / amax, kMost);
      return {1 / number, 0, number};
    }
    return {positive_scale(amax, amax / (peak * E4M3::kMax))};
  }
  [[nodiscard]] static ScaleChoice choose(GroupRange range, TensorScale tensor, float peak) {
    float block = absmax(range) / (peak * tensor.scale);
    if (block == 0) block = 1;
    block = E4M3::from_float(block).to_float();
    const float divisor = block * tensor.scale;
    return {{block, block, 0}, divisor, divisor};
  }
  [[nodiscard]] static ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                             int /*index*/) {
    return choose(range, tensor, peak);
  }
  [[nodiscard]] static float decode(float level, const GroupScale& scale, TensorScale tensor) {
    if (tensor.divisor != 0) return level * (scale.positive / tensor.divisor);
    return level * (scale.positive * tensor.scale);
  }

  /// A tensor of zeros (or of numbers too small for its scale) still needs a scale to divide by.
  static float positive_scale(float amax, float scale) {
    if (amax == 0) return 1;
    return std::max(scale, std::numeric_limits<float>::denorm_min());
  }
};

/// Four Over Six (arXiv 2512.02010): each block maps its maximum to 6 or to 4, whichever leaves the
/// smaller squared error; a tensor range of 6 * 256 instead of 6 * 448 leaves room for the larger
/// scale. Same container as NVFP4. The reference does not clamp to 6 before it encodes and so loses
/// block maxima whose scale is a rounded-down E4M3 subnormal; here values clamp. Decoded in the
/// reference's order, (level * scale) * absmax / 1536.
struct FourOverSixScale : PlainRule {
  static constexpr float kBlockRange = 256;

  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::symmetric; }
  [[nodiscard]] static ScaleType scale_type() { return ScaleType::e4m3; }
  [[nodiscard]] static bool reciprocal() { return true; }
  [[nodiscard]] static TensorScale tensor_scale(float amax, float peak) {
    // Where the reference's 1536 / absmax overflows, as if the maximum were larger.
    if (amax > 0 && !std::isfinite(peak * kBlockRange / amax)) amax = 0x1.8p-117F;
    return {Nvfp4Scale::positive_scale(amax, amax / (peak * kBlockRange)), amax};
  }
  [[nodiscard]] static ScaleChoice choose(GroupRange range, TensorScale tensor, float peak) {
    return candidate(range, tensor, peak, 0);
  }
  [[nodiscard]] static int candidate_count() { return 2; }
  [[nodiscard]] static ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                             int index) {
    const float encode = tensor.amax > 0 ? (peak * kBlockRange) / tensor.amax : 1 / tensor.scale;
    float block = absmax(range) / peak * encode;
    if (index == 1) block *= 1.5F;
    block = E4M3::from_float(block).to_float();
    const float decode = 1.0F / encode;
    const float multiplier = block == 0 ? 0.0F : 1.0F / (decode * block);
    return {{block, block, 0}, multiplier, multiplier};
  }
  [[nodiscard]] static float decode(float level, const GroupScale& scale, TensorScale tensor) {
    if (tensor.amax > 0) return level * scale.positive * tensor.amax / (6 * kBlockRange);
    return level * (scale.positive * tensor.scale);
  }
};

/// NVFP4: E2M1 elements, ties to even, blocks of 16; 4.5 bits.
using Nvfp4 = BlockFormat<E2M1Levels<kNvfp4Name>, Nvfp4Scale>;
using FourOverSix = BlockFormat<E2M1Levels<kNvfp4Name>, FourOverSixScale>;

}  // namespace nybble
