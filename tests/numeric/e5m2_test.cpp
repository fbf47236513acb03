#include "nybble/numeric/e5m2.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "tests/numeric/nearest_reference.h"

namespace nybble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

static_assert(E5M2::from_float(1.0f).bits == 0x3C);
static_assert(E5M2::from_float(1e6f).to_float() == E5M2::kMax);

std::uint32_t sign_of(float x) { return std::signbit(x) ? 0x80u : 0u; }

TEST(E5M2, EveryCodeDecodesByDefinitionAndComesBack) {
  const std::vector<double> values = test::minifloat_values(0x7C, 2, 15);
  for (unsigned code = 0; code < 256; ++code) {
    const float value = E5M2{static_cast<std::uint8_t>(code)}.to_float();
    if ((code & 0x7F) > 0x7C) {
      EXPECT_TRUE(std::isnan(value)) << code;
      continue;
    }
    EXPECT_EQ(std::signbit(value), code >= 128) << code;
    EXPECT_EQ(E5M2::from_float_unsaturated(value).bits, code);
    if ((code & 0x7F) == 0x7C) {
      EXPECT_EQ(std::fabs(value), kInfinity);
      continue;
    }
    EXPECT_EQ(std::fabs(static_cast<double>(value)), values[code & 0x7F]) << code;
    for (const TieRule ties : test::kTieRules) EXPECT_EQ(E5M2::from_float(value, ties).bits, code);
  }
}

TEST(E5M2, RoundsToNearestAroundEveryMidpoint) {
  const std::vector<double> values = test::minifloat_values(0x7C, 2, 15);
  for (const float x : test::critical_inputs(values)) {
    for (const TieRule ties : test::kTieRules) {
      EXPECT_EQ(E5M2::from_float(x, ties).bits, sign_of(x) | test::nearest_index(values, x, ties))
          << x << " rule " << static_cast<int>(ties);
    }
  }
}

TEST(E5M2, UnsaturatedRoundsAsIfTheGridWentOn) {
  const std::vector<double> values = test::minifloat_values(0x7D, 2, 15);
  for (const float x : test::critical_inputs(values)) {
    EXPECT_EQ(E5M2::from_float_unsaturated(x).bits,
              sign_of(x) | test::nearest_index(values, x, TieRule::even))
        << x;
  }
}

TEST(E5M2, Specials) {
  EXPECT_EQ(E5M2::from_float(kInfinity).bits, 0x7B);
  EXPECT_EQ(E5M2::from_float(-kInfinity).bits, 0xFB);
  EXPECT_EQ(E5M2::from_float(61440.0f, TieRule::away).bits, 0x7B);
  EXPECT_EQ(E5M2::from_float(kNan).bits, 0x7F);
  EXPECT_EQ(E5M2::from_float(-kNan).bits, 0xFF);

  EXPECT_EQ(E5M2::from_float_unsaturated(61440.0f).bits, 0x7C);
  EXPECT_EQ(E5M2::from_float_unsaturated(std::nextafterf(61440.0f, 0.0f)).bits, 0x7B);
  EXPECT_EQ(E5M2::from_float_unsaturated(-1e30f).bits, 0xFC);
  EXPECT_EQ(E5M2::from_float_unsaturated(kNan).bits, 0x7F);
  EXPECT_EQ(E5M2::from_float_unsaturated(-kNan).bits, 0xFF);
}

}  // namespace
}  // namespace nybble
