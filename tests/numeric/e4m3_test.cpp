#include "nybble/numeric/e4m3.h"

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

// The whole cast works at compile time.
static_assert(E4M3::from_float(1.0f).bits == 0x38);
static_assert(E4M3::from_float(1000.0f).to_float() == E4M3::kMax);
static_assert(E4M3x480::from_float(1000.0f).to_float() == E4M3x480::kMax);

std::uint32_t sign_of(float x) { return std::signbit(x) ? 0x80u : 0u; }

TEST(E4M3, EveryCodeDecodesByDefinitionAndComesBack) {
  const std::vector<double> values = test::minifloat_values(0x7F, 3, 7);
  for (unsigned code = 0; code < 256; ++code) {
    const E4M3 number{static_cast<std::uint8_t>(code)};
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(number.to_float()));
      continue;
    }
    const double magnitude = values[code & 0x7F];
    EXPECT_EQ(static_cast<double>(number.to_float()), code < 128 ? magnitude : -magnitude) << code;
    EXPECT_EQ(std::signbit(number.to_float()), code >= 128) << code;
    for (const TieRule ties : test::kTieRules) {
      EXPECT_EQ(E4M3::from_float(number.to_float(), ties).bits, code);
    }
    EXPECT_EQ(E4M3::from_float_unsaturated(number.to_float()).bits, code);
  }
}

TEST(E4M3, RoundsToNearestAroundEveryMidpoint) {
  const std::vector<double> values = test::minifloat_values(0x7F, 3, 7);
  for (const float x : test::critical_inputs(values)) {
    for (const TieRule ties : test::kTieRules) {
      EXPECT_EQ(E4M3::from_float(x, ties).bits, sign_of(x) | test::nearest_index(values, x, ties))
          << x << " rule " << static_cast<int>(ties);
    }
  }
}

TEST(E4M3, UnsaturatedRoundsAsIfTheGridWentOn) {
  const std::vector<double> values = test::minifloat_values(0x80, 3, 7);
  for (const float x : test::critical_inputs(values)) {
    EXPECT_EQ(E4M3::from_float_unsaturated(x).bits,
              sign_of(x) | test::nearest_index(values, x, TieRule::even))
        << x;
  }
}

TEST(E4M3, Specials) {
  EXPECT_EQ(E4M3::from_float(kInfinity).bits, 0x7E);
  EXPECT_EQ(E4M3::from_float(-kInfinity).bits, 0xFE);
  EXPECT_EQ(E4M3::from_float(464.0f, TieRule::away).bits, 0x7E);
  EXPECT_EQ(E4M3::from_float(kNan).bits, 0x7F);
  EXPECT_EQ(E4M3::from_float(-kNan).bits, 0xFF);
  EXPECT_EQ(E4M3::from_float(-0.0f).bits, 0x80);

  EXPECT_EQ(E4M3::from_float_unsaturated(464.0f).bits, 0x7E);
  EXPECT_EQ(E4M3::from_float_unsaturated(std::nextafterf(464.0f, 500.0f)).bits, 0x7F);
  EXPECT_EQ(E4M3::from_float_unsaturated(-480.0f).bits, 0xFF);
  EXPECT_EQ(E4M3::from_float_unsaturated(kInfinity).bits, 0x7F);
  EXPECT_EQ(E4M3::from_float_unsaturated(-kInfinity).bits, 0xFF);
  EXPECT_EQ(E4M3::from_float_unsaturated(kNan).bits, 0x7F);
  EXPECT_EQ(E4M3::from_float_unsaturated(-kNan).bits, 0xFF);
}

TEST(E4M3x480, EveryCodeIsANumberAndComesBack) {
  const std::vector<double> values = test::minifloat_values(0x80, 3, 7);
  ASSERT_EQ(values.back(), 480.0);
  for (unsigned code = 0; code < 256; ++code) {
    const E4M3x480 number{static_cast<std::uint8_t>(code)};
    const double magnitude = values[code & 0x7F];
    EXPECT_EQ(static_cast<double>(number.to_float()), code < 128 ? magnitude : -magnitude) << code;
    for (const TieRule ties : test::kTieRules) {
      EXPECT_EQ(E4M3x480::from_float(number.to_float(), ties).bits, code);
    }
  }
}

TEST(E4M3x480, RoundsToNearestAroundEveryMidpoint) {
  const std::vector<double> values = test::minifloat_values(0x80, 3, 7);
  for (const float x : test::critical_inputs(values)) {
    for (const TieRule ties : test::kTieRules) {
      EXPECT_EQ(E4M3x480::from_float(x, ties).bits,
                sign_of(x) | test::nearest_index(values, x, ties))
          << x << " rule " << static_cast<int>(ties);
    }
  }
}

TEST(E4M3x480, SpecialsAndDefaultRule) {
  EXPECT_EQ(E4M3x480::from_float(464.0f).bits, 0x7F);  // a tie, away by default
  EXPECT_EQ(E4M3x480::from_float(1.0625f).bits, 0x39);
  EXPECT_EQ(E4M3x480::from_float(kInfinity).bits, 0x7F);
  EXPECT_EQ(E4M3x480::from_float(-kInfinity).bits, 0xFF);
  EXPECT_EQ(E4M3x480::from_float(kNan).bits, 0x7F);
  EXPECT_EQ(E4M3x480::from_float(-kNan).bits, 0x7F);
}

}  // namespace
}  // namespace nybble
