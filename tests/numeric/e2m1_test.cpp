#include "nybble/numeric/e2m1.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "tests/numeric/nearest_reference.h"

namespace nybble {
namespace {

static_assert(kE2M1Levels[e2m1_from_float(-5.5f)] == -6.0f);

TEST(E2M1, LevelsFollowTheDefinition) {
  const std::vector<double> values = test::minifloat_values(8, 1, 1);
  for (std::size_t code = 0; code < 16; ++code) {
    EXPECT_EQ(std::fabs(static_cast<double>(kE2M1Levels[code])), values[code % 8]) << code;
    EXPECT_EQ(std::signbit(kE2M1Levels[code]), code >= 8) << code;
    if (code == 8) continue;  // -0.0 is written as +0
    for (const TieRule ties : test::kTieRules) {
      EXPECT_EQ(e2m1_from_float(kE2M1Levels[code], ties), code);
    }
  }
}

TEST(E2M1, RoundsToNearestAroundEveryMidpoint) {
  const std::vector<double> values = test::minifloat_values(8, 1, 1);
  for (const float x : test::critical_inputs(values)) {
    for (const TieRule ties : test::kTieRules) {
      EXPECT_EQ(e2m1_from_float(x, ties), (x < 0 ? 8u : 0u) | test::nearest_index(values, x, ties))
          << x << " rule " << static_cast<int>(ties);
    }
  }
}

TEST(E2M1, TiesAsPublished) {
  constexpr std::array<float, 7> midpoints = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  constexpr std::array<float, 7> even = {0.0f, 1.0f, 1.0f, 2.0f, 2.0f, 4.0f, 4.0f};
  constexpr std::array<float, 7> away = {0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  constexpr std::array<float, 7> zero = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f};
  for (std::size_t i = 0; i < midpoints.size(); ++i) {
    EXPECT_EQ(kE2M1Levels[e2m1_from_float(midpoints[i])], even[i]);
    EXPECT_EQ(kE2M1Levels[e2m1_from_float(midpoints[i], TieRule::away)], away[i]);
    EXPECT_EQ(kE2M1Levels[e2m1_from_float(midpoints[i], TieRule::zero)], zero[i]);
  }
}

TEST(E2M1, Specials) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(e2m1_from_float(infinity), 7);
  EXPECT_EQ(e2m1_from_float(-infinity), 15);
  EXPECT_EQ(e2m1_from_float(-0.0f), 0);
  EXPECT_EQ(e2m1_from_float(-1e-30f), 8);
  EXPECT_EQ(e2m1_from_float(nan), 7);
  EXPECT_EQ(e2m1_from_float(-nan), 7);
}

}  // namespace
}  // namespace nybble
