#include "nybble/numeric/e8m0.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace nybble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

static_assert(E8M0::from_float(1.0f).bits == 127);
static_assert(E8M0::from_exponent(-3).to_float() == 0.125f);

TEST(E8M0, EveryCodeDecodesByDefinitionAndComesBack) {
  for (int code = 0; code < 255; ++code) {
    const E8M0 scale{static_cast<std::uint8_t>(code)};
    EXPECT_EQ(scale.to_float(), std::ldexp(1.0f, code - 127)) << code;
    EXPECT_EQ(E8M0::from_float(scale.to_float()).bits, code);
    EXPECT_EQ(E8M0::from_float(-scale.to_float()).bits, code);
    EXPECT_EQ(E8M0::from_exponent(code - 127).bits, code);
  }
  EXPECT_EQ(std::bit_cast<std::uint32_t>(E8M0{0}.to_float()), 0x00400000u);
  EXPECT_TRUE(std::isnan(E8M0{0xFF}.to_float()));
}

TEST(E8M0, ExponentsAreClamped) {
  EXPECT_EQ(E8M0::from_exponent(-128).bits, 0);
  EXPECT_EQ(E8M0::from_exponent(std::numeric_limits<int>::min()).bits, 0);
  EXPECT_EQ(E8M0::from_exponent(128).bits, 254);
  EXPECT_EQ(E8M0::from_exponent(std::numeric_limits<int>::max()).bits, 254);
}

TEST(E8M0, NormalsGoToTheNearestPowerOfTwoAndTiesUp) {
  for (int exponent = -126; exponent <= 127; ++exponent) {
    const float middle = std::ldexp(1.5f, exponent);
    const float last = std::nextafterf(middle * (4.0f / 3.0f), 0.0f);  // infinity becomes FLT_MAX
    EXPECT_EQ(E8M0::from_float(std::nextafterf(middle, 0.0f)).bits, exponent + 127) << exponent;
    EXPECT_EQ(E8M0::from_float(middle).bits, exponent + 128) << exponent;
    EXPECT_EQ(E8M0::from_float(std::nextafterf(middle, kInfinity)).bits, exponent + 128);
    EXPECT_EQ(E8M0::from_float(last).bits, exponent + 128) << exponent;
  }
}

TEST(E8M0, Specials) {
  const float two_to_minus_127 = std::ldexp(1.0f, -127);
  EXPECT_EQ(E8M0::from_float(0.0f).bits, 0);
  EXPECT_EQ(E8M0::from_float(std::numeric_limits<float>::denorm_min()).bits, 0);
  EXPECT_EQ(E8M0::from_float(two_to_minus_127).bits, 0);
  EXPECT_EQ(E8M0::from_float(std::nextafterf(two_to_minus_127, 1.0f)).bits, 1);
  EXPECT_EQ(E8M0::from_float(std::nextafterf(std::ldexp(1.0f, -126), 0.0f)).bits, 1);
  EXPECT_EQ(E8M0::from_float(kInfinity).bits, 0xFF);
  EXPECT_EQ(E8M0::from_float(-kInfinity).bits, 0xFF);
  EXPECT_EQ(E8M0::from_float(std::numeric_limits<float>::quiet_NaN()).bits, 0xFF);
  EXPECT_EQ(E8M0::from_float(std::numeric_limits<float>::max()).bits, 0xFF);
}

}  // namespace
}  // namespace nybble
