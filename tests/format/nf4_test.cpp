#include "nybble/format/nf4.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/random.h"

namespace nybble::test {
namespace {

TEST(NestedTable, IsTheSignedDynamicMap) {
  const std::array<float, 256>& table = nested_table();
  EXPECT_TRUE(std::is_sorted(table.begin(), table.end()));
  EXPECT_EQ(std::adjacent_find(table.begin(), table.end()), table.end()) << "two equal entries";
  EXPECT_EQ(table[127], 0);
  EXPECT_EQ(table[255], 1);
  // All others come in pairs of both signs, 2^i of them in decade i.
  for (std::size_t i = 1; i <= 127; ++i) EXPECT_EQ(table[127 - i], -table[127 + i]) << i;
  for (int decade = 0; decade < 7; ++decade) {
    const double top = std::pow(10.0, decade - 6);
    EXPECT_EQ(std::count_if(table.begin(), table.end(),
                            [&](float v) { return v > 0.1 * top && v < top; }),
              1 << decade);
  }
}

TEST(DoubleQuantize, NearestEntriesOfCentredScales) {
  for (const std::size_t count : {1U, 7U, 32U, 255U, 256U, 257U, 600U, 5000U}) {
    std::vector<float> scales = normal_values(count, count);
    for (float& s : scales) s = 0.02F + 0.001F * s;
    const std::vector<float> original = scales;
    std::vector<std::uint8_t> codes(count);
    std::vector<float> nested((count + 255) / 256);
    float offset = 0;
    double_quantize(scales, codes, nested, offset);

    double mean = 0;
    for (const float s : original) mean += static_cast<double>(s) / static_cast<double>(count);
    EXPECT_NEAR(offset, mean, 1e-7) << count;
    for (std::size_t block = 0; block < nested.size(); ++block) {
      float largest = 0;
      const std::size_t end = std::min(count, block * 256 + 256);
      for (std::size_t i = block * 256; i < end; ++i) {
        largest = std::max(largest, std::fabs(original[i] - offset));
      }
      EXPECT_EQ(nested[block], largest) << count;
      for (std::size_t i = block * 256; i < end; ++i) {
        const float decoded = nested_table()[codes[i]] * largest + offset;
        EXPECT_EQ(scales[i], decoded) << count;
        float nearest = 1e9F;
        for (const float entry : nested_table()) {
          nearest = std::min(nearest, std::fabs(entry * largest - (original[i] - offset)));
        }
        EXPECT_LE(std::fabs(decoded - original[i]), nearest + 1e-8F) << count << " " << i;
      }
    }
  }
}

TEST(DoubleQuantize, EqualScalesAreExact) {
  std::vector<float> scales(300, 0.75F);
  std::vector<std::uint8_t> codes(300);
  std::vector<float> nested(2);
  float offset = 0;
  double_quantize(scales, codes, nested, offset);
  EXPECT_EQ(offset, 0.75F);
  for (const float s : scales) EXPECT_EQ(s, 0.75F);
}

}  // namespace
}  // namespace nybble::test
