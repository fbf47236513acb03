#include "nybble/format/element.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "nybble/format/fp4.h"
#include "nybble/format/int4.h"
#include "nybble/format/nf4.h"

namespace nybble::test {
namespace {

struct Book {
  const char* name;
  std::array<float, 16> levels;
};

const Book kBooks[] = {{"e2m1", kE2M1Levels},
                       {"int4", Int4Levels::kLevels},
                       {"uint4", Uint4Levels::kLevels},
                       {"nf4", Nf4Levels::kLevels},
                       {"fp4_bnb", BnbFp4Levels::kLevels}};

/// Whether `code` may stand for z: no level is nearer, and of two equally near ones the tie rule
/// wants this one. A tie is a tie at the f32 midpoint, which is where references round.
bool is_right(const std::array<float, 16>& levels, LevelTies ties, float z, std::uint8_t code) {
  const float mine = levels[code];
  if (mine == 0 && z == 0) return true;
  for (std::size_t other = 0; other < 16; ++other) {
    const float level = levels[other];
    if (level == mine) continue;
    const float middle = (mine + level) / 2;
    const bool beyond = level > mine ? z > middle : z < middle;
    if (beyond) return false;
    if (z != middle) continue;
    // Only neighbours share a midpoint that decides anything.
    const bool neighbours = std::none_of(levels.begin(), levels.end(), [&](float l) {
      return (l > mine && l < level) || (l < mine && l > level);
    });
    if (!neighbours) return false;
    switch (ties) {
      case LevelTies::even:
        if (code % 2 != 0 && mine != 0) return false;
        break;
      case LevelTies::away:
        if (std::fabs(mine) < std::fabs(level)) return false;
        break;
      case LevelTies::zero:
        if (std::fabs(mine) > std::fabs(level)) return false;
        break;
      case LevelTies::lower:
        if (mine > level) return false;
        break;
    }
  }
  return true;
}

std::vector<float> probes(const std::array<float, 16>& levels) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> points = {0.0F, -0.0F, 1e-45F, -1e-45F, 1e30F, -1e30F, kInfinity, -kInfinity};
  std::vector<float> centres(levels.begin(), levels.end());
  for (const float a : levels) {
    for (const float b : levels) centres.push_back((a + b) / 2);
  }
  for (const float centre : centres) {
    float below = centre;
    float above = centre;
    points.push_back(centre);
    for (int i = 0; i < 3; ++i) {
      points.push_back(below = std::nextafter(below, -kInfinity));
      points.push_back(above = std::nextafter(above, kInfinity));
    }
  }
  for (int i = -3000; i <= 3000; ++i) points.push_back(static_cast<float>(i) / 200.0F);
  return points;
}

TEST(EncodeTable, FindsTheNearestLevelAroundEveryMidpoint) {
  for (const Book& book : kBooks) {
    for (const LevelTies ties :
         {LevelTies::even, LevelTies::away, LevelTies::zero, LevelTies::lower}) {
      // "Even" speaks of neighbouring codes of which one is even: not of bitsandbytes' order.
      if (ties == LevelTies::even && std::string_view(book.name) == "fp4_bnb") continue;
      const EncodeTable table = make_encode_table(book.levels, ties, ScaleLayout::symmetric, false);
      for (const float z : probes(book.levels)) {
        const std::uint8_t code = encode_scaled(table, z);
        EXPECT_TRUE(is_right(book.levels, ties, z, code))
            << fmt::format("{} ties {} z {:a} code {}", book.name, static_cast<int>(ties), z, code);
      }
    }
  }
}

TEST(EncodeTable, ThresholdsAscend) {
  for (const Book& book : kBooks) {
    const EncodeTable table =
        make_encode_table(book.levels, LevelTies::even, ScaleLayout::symmetric, false);
    EXPECT_TRUE(std::is_sorted(table.threshold.begin(), table.threshold.end())) << book.name;
  }
}

TEST(EncodeTable, TiesOfE2m1) {
  const float midpoints[] = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.0F};
  const std::pair<LevelTies, std::array<float, 7>> expected[] = {
      {LevelTies::even, {0, 1, 1, 2, 2, 4, 4}},
      {LevelTies::away, {0.5F, 1, 1.5F, 2, 3, 4, 6}},
      {LevelTies::zero, {0, 0.5F, 1, 1.5F, 2, 3, 4}}};
  for (const auto& [ties, results] : expected) {
    const EncodeTable table = make_encode_table(kE2M1Levels, ties, ScaleLayout::symmetric, false);
    for (std::size_t i = 0; i < 7; ++i) {
      EXPECT_EQ(kE2M1Levels[encode_scaled(table, midpoints[i])], results[i]) << midpoints[i];
      EXPECT_EQ(kE2M1Levels[encode_scaled(table, -midpoints[i])], -results[i]) << midpoints[i];
    }
  }
}

TEST(EncodeTable, MinusZeroAndZero) {
  const EncodeTable table =
      make_encode_table(kE2M1Levels, LevelTies::even, ScaleLayout::symmetric, false);
  EXPECT_EQ(encode_scaled(table, 0.0F), 0);
  EXPECT_EQ(encode_scaled(table, -0.0F), 0);
  EXPECT_EQ(encode_scaled(table, -0.1F), 8);
}

TEST(EncodeValue, ZeroIsZeroUnderAnyScale) {
  const EncodeTable table =
      make_encode_table(kE2M1Levels, LevelTies::even, ScaleLayout::symmetric, false);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float scale : {0.0F, 1.0F, kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    const ScaleChoice choice{{scale, scale, 0}, scale, scale};
    EXPECT_EQ(encode_value(table, choice, 0.0F), 0) << scale;
    EXPECT_EQ(encode_value(table, choice, -0.0F), 0) << scale;
  }
  const ScaleChoice zero{{0, 0, 0}, 0, 0};
  EXPECT_EQ(kE2M1Levels[encode_value(table, zero, 1e-30F)], 6.0F);
  EXPECT_EQ(kE2M1Levels[encode_value(table, zero, -1e-30F)], -6.0F);
}

TEST(EncodeValue, ZeroPointCodesClamp) {
  const EncodeTable table =
      make_encode_table(Uint4Levels::kLevels, LevelTies::even, ScaleLayout::zero_point, false);
  const ScaleChoice choice{{0.5F, 0.5F, 3}, 0.5F, 0.5F};
  EXPECT_EQ(encode_value(table, choice, 0), 3);
  EXPECT_EQ(encode_value(table, choice, 0.25F), 3);  // 0.5 goes to the even 0
  EXPECT_EQ(encode_value(table, choice, 0.75F), 5);  // 1.5 to the even 2
  EXPECT_EQ(encode_value(table, choice, -2.0F), 0);
  EXPECT_EQ(encode_value(table, choice, 1e30F), 15);
  EXPECT_EQ(encode_value(table, choice, std::numeric_limits<float>::quiet_NaN()), 0);
}

}  // namespace
}  // namespace nybble::test
