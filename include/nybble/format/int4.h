#pragma once

#include <array>

#include "nybble/format/block_format.h"

namespace nybble {

/// INT4, symmetric: codes 0..15 stand for the integers -8..7 (code - 8), groups of K share one
/// float scale, absmax / 7, so that both ends of the range are representable; -8 is reached only
/// through clip search and calibrated quantizers. The zero is exact. 4 + 16/group bits with f16
/// scales.
struct Int4Levels {
  static constexpr const char* kName = "int4";
  static constexpr std::array<float, 16> kLevels = {-8, -7, -6, -5, -4, -3, -2, -1,
                                                    0,  1,  2,  3,  4,  5,  6,  7};
};

/// INT4 with a zero point: value = (code - zero) * scale, code and zero in 0..15, scale =
/// (max - min) / 15 over a range that includes 0 (GPTQ's convention, algorithms.md section 2).
struct Uint4Levels {
  static constexpr const char* kName = "int4";
  static constexpr std::array<float, 16> kLevels = {0, 1, 2,  3,  4,  5,  6,  7,
                                                    8, 9, 10, 11, 12, 13, 14, 15};
};

/// absmax / 7 whatever the codebook's reach.
struct Int4Scale : AbsmaxScale {
  using AbsmaxScale::AbsmaxScale;
  [[nodiscard]] ScaleChoice choose(GroupRange range, TensorScale tensor, float /*peak*/) const {
    return AbsmaxScale::choose(range, tensor, 7.0F);
  }
  [[nodiscard]] ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                      int /*index*/) const {
    return choose(range, tensor, peak);
  }
};

using Int4 = BlockFormat<Int4Levels, Int4Scale>;
using Int4ZeroPoint = BlockFormat<Uint4Levels, ZeroPointScale>;

}  // namespace nybble
