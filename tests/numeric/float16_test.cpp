#include "nybble/numeric/float16.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "tests/numeric/nearest_reference.h"

namespace nybble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

static_assert(Float16::from_float(1.0f).bits == 0x3C00);

// Codes up to infinity's, which stands in for the number that would follow the largest one: the
// IEEE overflow rule is rounding on the grid that goes on.
std::vector<double> grid() { return test::minifloat_values(0x7C00 + 1, 10, 15); }

std::uint32_t sign_of(float x) { return std::signbit(x) ? 0x8000u : 0u; }

TEST(Float16, EveryCodeDecodesByDefinitionAndComesBack) {
  const std::vector<double> values = grid();
  for (unsigned code = 0; code < 65536; ++code) {
    const unsigned magnitude = code & 0x7FFF;
    const float value = Float16{static_cast<std::uint16_t>(code)}.to_float();
    const unsigned back = Float16::from_float(value).bits;
    ASSERT_EQ(std::signbit(value), code >= 0x8000) << code;
    if (magnitude > 0x7C00) {
      ASSERT_TRUE(std::isnan(value)) << code;
      ASSERT_EQ(back, code | (0x7E00 & ~0x7C00)) << "a NaN keeps its payload and becomes quiet";
      continue;
    }
    const double expected = magnitude == 0x7C00 ? HUGE_VAL : values[magnitude];
    ASSERT_EQ(std::fabs(static_cast<double>(value)), expected) << code;
    ASSERT_EQ(back, code);
  }
}

TEST(Float16, RoundsToNearestEvenAroundEveryMidpoint) {
  const std::vector<double> values = grid();
  for (const float x : test::critical_inputs(values)) {
    if (std::isnan(x)) continue;
    ASSERT_EQ(Float16::from_float(x).bits,
              sign_of(x) | test::nearest_index(values, x, TieRule::even))
        << x;
  }
}

TEST(Float16, RoundsRandomBitPatternsToNearestEven) {
  const std::vector<double> values = grid();
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(Float16::from_float(x).to_float()));
      continue;
    }
    ASSERT_EQ(Float16::from_float(x).bits,
              sign_of(x) | test::nearest_index(values, x, TieRule::even))
        << x;
  }
}

TEST(Float16, Specials) {
  EXPECT_EQ(Float16::from_float(kInfinity).bits, 0x7C00);
  EXPECT_EQ(Float16::from_float(-kInfinity).bits, 0x8000 | 0x7C00);
  EXPECT_EQ(Float16::from_float(std::numeric_limits<float>::max()).bits, 0x7C00);
  EXPECT_EQ(Float16::from_float(std::bit_cast<float>(0x7FC00000u)).bits, 0x7E00);
  // The payload of this NaN is lost; it must not turn into infinity.
  EXPECT_EQ(Float16::from_float(std::bit_cast<float>(0xFF800001u)).bits, 0x8000 | 0x7E00);
  EXPECT_EQ(Float16::from_float(-0.0f).bits, 0x8000);
  EXPECT_EQ(Float16::from_float(65520.0f).bits, 0x7C00);
  EXPECT_EQ(Float16::from_float(std::nextafterf(65520.0f, 0.0f)).to_float(), Float16::kMax);
}

}  // namespace
}  // namespace nybble
