#pragma once

#include <array>

#include "nybble/format/block_format.h"
#include "nybble/numeric/e2m1.h"

namespace nybble {

/// FP4 E2M1 (sign, 2 exponent bits, 1 mantissa bit, bias 1): 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their
/// negatives; bit 3 of the code is the sign, code 8 is -0 (numeric/e2m1.h).
template <const char* Name>
struct E2M1Levels {
  static constexpr const char* kName = Name;
  static constexpr std::array<float, 16> kLevels = kE2M1Levels;
};

inline constexpr char kFp4Name[] = "fp4";

/// E2M1 elements under one float scale a group, absmax / 6: MXFP4's elements without its coarse
/// scales. Ties to even.
using Fp4 = BlockFormat<E2M1Levels<kFp4Name>, AbsmaxScale>;

/// bitsandbytes' "FP4" is another code and other values than E2M1: its magnitudes by code are
/// {0, 1/16, 8, 12, 4, 6, 2, 3} / 12, bit 3 the sign (bitsandbytes csrc/kernels.cu). A type of its
/// own, so that nobody confuses the two.
struct BnbFp4Levels {
  static constexpr const char* kName = "fp4_bnb";
  static constexpr std::array<float, 16> kLevels = {
      0.0F,  0.005208333333F,  0.66666667F,  1.0F,  0.33333333F,  0.5F,  0.16666667F,  0.25F,
      -0.0F, -0.005208333333F, -0.66666667F, -1.0F, -0.33333333F, -0.5F, -0.16666667F, -0.25F};
};

}  // namespace nybble
