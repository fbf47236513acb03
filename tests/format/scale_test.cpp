#include "nybble/format/scale.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace nybble::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// A group maximum that is `significand` * 2^exponent, as the scale of E2M1 elements: the exponent
/// of the scale chosen.
int scale_exponent(ExponentRule rule, float significand, int exponent) {
  return exponent_scale(rule, std::ldexp(significand, exponent), 6) - 127;
}

TEST(ExponentScale, ThresholdsOfTheRules) {
  for (const int e : {-100, -1, 0, 1, 100}) {
    // The largest power of two of E2M1 is 4 = 2^2.
    for (const float s : {1.0F, 1.5F, 1.75F, 1.9999999F}) {
      EXPECT_EQ(scale_exponent(ExponentRule::floor, s, e), e - 2) << s;
    }
    EXPECT_EQ(scale_exponent(ExponentRule::even, 1.0F, e), e - 2);
    EXPECT_EQ(scale_exponent(ExponentRule::even, 1.7499999F, e), e - 2);
    EXPECT_EQ(scale_exponent(ExponentRule::even, 1.75F, e), e - 1);
    EXPECT_EQ(scale_exponent(ExponentRule::ceil, 1.0F, e), e - 2);
    EXPECT_EQ(scale_exponent(ExponentRule::ceil, 1.0000001F, e), e - 1);
    EXPECT_EQ(scale_exponent(ExponentRule::rceil, 1.0F, e), e - 2);
    EXPECT_EQ(scale_exponent(ExponentRule::rceil, 1.5F, e), e - 2);  // 6 exactly fills the range
    EXPECT_EQ(scale_exponent(ExponentRule::rceil, 1.5000002F, e), e - 1);
  }
}

TEST(ExponentScale, EndsOfTheRange) {
  for (const ExponentRule rule :
       {ExponentRule::floor, ExponentRule::even, ExponentRule::ceil, ExponentRule::rceil}) {
    EXPECT_EQ(exponent_scale(rule, 0, 6), 0);
    EXPECT_EQ(exponent_scale(rule, 1e-45F, 6), 0);
    EXPECT_EQ(exponent_scale(rule, kInfinity, 6), 255);
    EXPECT_EQ(exponent_scale(rule, kNan, 6), 255);
  }
  EXPECT_EQ(exponent_scale(ExponentRule::floor, 0x1.FFFFFEp127F, 6), 252);
  EXPECT_EQ(exponent_scale(ExponentRule::even, 0x1.BFFFFEp127F, 6), 252);
  EXPECT_EQ(exponent_scale(ExponentRule::even, 0x1.Cp127F, 6), 255);
  EXPECT_EQ(exponent_scale(ExponentRule::ceil, 0x1.FFFFFEp127F, 6), 253);
}

TEST(RoundScale, SaturatesInsteadOfOverflowing) {
  EXPECT_EQ(round_scale(ScaleType::f32, 1e38F), 1e38F);
  EXPECT_EQ(round_scale(ScaleType::f16, 1e38F), 65504);
  EXPECT_EQ(round_scale(ScaleType::bf16, 3.4e38F), 0x1.FEp127F);
  EXPECT_EQ(round_scale(ScaleType::e4m3, 1e38F), 448);
  EXPECT_EQ(round_scale(ScaleType::e4m3x480, 1e38F), 480);
  EXPECT_EQ(round_scale(ScaleType::e5m2, 1e38F), 57344);
  for (const ScaleType type : {ScaleType::f32, ScaleType::f16, ScaleType::bf16, ScaleType::e8m0,
                               ScaleType::e4m3, ScaleType::e4m3x480, ScaleType::e5m2}) {
    EXPECT_TRUE(std::isnan(round_scale(type, kNan)));
  }
}

TEST(NeighbourScale, StepsOneCodeAndStopsAtTheEnds) {
  EXPECT_EQ(neighbour_scale(ScaleType::e8m0, 4, 1), 8);
  EXPECT_EQ(neighbour_scale(ScaleType::e8m0, 0x1p127F, 1), 0x1p127F);
  EXPECT_EQ(neighbour_scale(ScaleType::e8m0, 0x1p-127F, -1), 0x1p-127F);
  EXPECT_EQ(neighbour_scale(ScaleType::e5m2, 1, 1), 1.25F);
  EXPECT_EQ(neighbour_scale(ScaleType::e5m2, 1, -1), 0.875F);
  EXPECT_EQ(neighbour_scale(ScaleType::e5m2, 57344, 2), 57344);
  EXPECT_EQ(neighbour_scale(ScaleType::e5m2, 0x1p-16F, -2), 0x1p-16F);  // never zero
  EXPECT_EQ(neighbour_scale(ScaleType::e4m3, 448, 1), 448);
  EXPECT_EQ(neighbour_scale(ScaleType::e4m3x480, 448, 1), 480);
  EXPECT_GT(neighbour_scale(ScaleType::f16, 1, 1), 1);
  EXPECT_LT(neighbour_scale(ScaleType::f32, 1, -1), 1);
  EXPECT_EQ(neighbour_scale(ScaleType::e5m2, 0, 1), 0);
  EXPECT_TRUE(std::isnan(neighbour_scale(ScaleType::e8m0, kNan, 1)));
}

TEST(Absmax, OfRanges) {
  EXPECT_EQ(absmax({2, -3}), 3);
  EXPECT_EQ(absmax({-2, -3}), 3);
  EXPECT_EQ(absmax({5, 4}), 5);
  EXPECT_TRUE(std::isnan(absmax({kNan, 0})));
  for (const float max : {0.0F, -0.0F}) {
    for (const float min : {0.0F, -0.0F}) EXPECT_FALSE(std::signbit(absmax({max, min})));
  }
}

}  // namespace
}  // namespace nybble::test
