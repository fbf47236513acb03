#include "nybble/numeric/minifloat.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <limits>

#include "tests/numeric/nearest_reference.h"

namespace nybble {
namespace {

TEST(MiniFloat, MostMantissaBits) {
  using Wide = MiniFloat<22, 127>;
  for (const std::uint32_t code : {0u, 1u, 0x003FFFFFu, 0x00400000u, 0x1FC00000u, 0x3FBFFFFFu}) {
    const float value = std::bit_cast<float>(code << 1);
    const float middle = std::bit_cast<float>((code << 1) + 1);
    EXPECT_EQ(Wide::value(code), value) << code;
    EXPECT_EQ(Wide::nearest_code(value, TieRule::zero), code);
    EXPECT_EQ(Wide::nearest_code(middle, TieRule::even), code + code % 2) << code;
    EXPECT_EQ(Wide::nearest_code(middle, TieRule::away), code + 1) << code;
    EXPECT_EQ(Wide::nearest_code(middle, TieRule::zero), code) << code;
  }
}

TEST(MiniFloat, SignIsIgnoredAndInfinityExceedsEveryNumber) {
  using Half = MiniFloat<10, 15>;
  for (const TieRule ties : test::kTieRules) {
    EXPECT_EQ(Half::nearest_code(-1.5f, ties), Half::nearest_code(1.5f, ties));
    EXPECT_GT(Half::nearest_code(std::numeric_limits<float>::infinity(), ties),
              Half::nearest_code(std::numeric_limits<float>::max(), ties) - 1);
    EXPECT_GE(Half::nearest_code(std::numeric_limits<float>::quiet_NaN(), ties),
              Half::nearest_code(std::numeric_limits<float>::infinity(), ties));
  }
}

TEST(MiniFloat, NanAndSignBits) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(is_nan_bits(nan));
  EXPECT_TRUE(is_nan_bits(-nan));
  EXPECT_TRUE(is_nan_bits(std::bit_cast<float>(0x7F800001u)));
  EXPECT_FALSE(is_nan_bits(infinity));
  EXPECT_FALSE(is_nan_bits(-infinity));
  EXPECT_FALSE(is_nan_bits(-0.0f));
  EXPECT_EQ(sign_at(-0.0f, 7), 0x80u);
  EXPECT_EQ(sign_at(-3.0f, 15), 0x8000u);
  EXPECT_EQ(sign_at(3.0f, 15), 0u);
}

}  // namespace
}  // namespace nybble
