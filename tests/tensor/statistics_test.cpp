#include "nybble/tensor/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "nybble/format/registry.h"
#include "nybble/quantize/rtn.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

TEST(ValueStatistics, EveryKindOfValueIsCounted) {
  SerialExecutor serial;
  const std::vector<float> values = {0.0F,  -0.0F, 1.5F,      -2.0F,    kNan, kInf,
                                     -kInf, -kNan, 0x1p-130F, 0x1p-15F, 3.99F};
  const ValueStatistics wide = value_statistics(values, 0x1p-126F, serial);
  EXPECT_EQ(wide.count, 11U);
  EXPECT_EQ(wide.nan, 2U);
  EXPECT_EQ(wide.inf, 2U);
  EXPECT_EQ(wide.zero, 2U);
  EXPECT_EQ(wide.negative, 2U);
  EXPECT_EQ(wide.denormal, 1U);
  EXPECT_EQ(wide.smallest, -2.0F);
  EXPECT_EQ(wide.largest, 3.99F);
  const std::map<int, std::size_t> octaves = {{-130, 1}, {-15, 1}, {0, 1}, {1, 2}};
  EXPECT_EQ(wide.octaves, octaves);
  // As halves, 2^-15 is one of the denormals, too.
  EXPECT_EQ(value_statistics(values, 0x1p-14F, serial).denormal, 2U);
}

TEST(ValueStatistics, NothingHasNoRange) {
  SerialExecutor serial;
  const ValueStatistics none = value_statistics({}, 0, serial);
  EXPECT_EQ(none.count, 0U);
  EXPECT_EQ(none.finite(), 0U);
  EXPECT_GT(none.smallest, none.largest);
}

TEST(ValueStatistics, ThreadsDoNotChangeThem) {
  SerialExecutor serial;
  test::ThreadExecutor threads(3);
  const std::vector<float> values = test::normal_values(300'000, 1);
  const ValueStatistics one = value_statistics(values, 0, serial);
  const ValueStatistics three = value_statistics(values, 0, threads);
  EXPECT_EQ(one.count, 300'000U);
  EXPECT_EQ(three.count, one.count);
  EXPECT_EQ(three.negative, one.negative);
  EXPECT_EQ(three.smallest, one.smallest);
  EXPECT_EQ(three.largest, one.largest);
  EXPECT_EQ(three.octaves, one.octaves);
}

/// Counted again, one element at a time.
QuantizedStatistics naive(const QuantizedMatrix& matrix) {
  QuantizedStatistics out;
  for (std::size_t row = 0; row < matrix.rows; ++row) {
    for (std::size_t col = 0; col < matrix.cols; ++col) ++out.codes[matrix.code(row, col)];
  }
  for (const std::uint8_t zero : matrix.zero_points) ++out.zero_points[zero];
  return out;
}

TEST(QuantizedStatistics, CodesAndZeroPointsAreThoseOfTheMatrix) {
  test::ThreadExecutor threads(3);
  for (const char* spec : {"int4", "int4:zero_point=true", "nf4", "mxfp4", "nvfp4", "amxfp4"}) {
    // Odd columns and a last group that is not full: padding must not count.
    const std::vector<float> weight = test::normal_values(37 * 77, 2);
    const QuantizedMatrix matrix =
        quantize_rtn({weight.data(), 37, 77}, parse_format(spec), threads);
    const QuantizedStatistics statistics = quantized_statistics(matrix, threads);
    EXPECT_EQ(statistics.codes, naive(matrix).codes) << spec;
    EXPECT_EQ(statistics.zero_points, naive(matrix).zero_points) << spec;
    EXPECT_EQ(statistics.elements(), 37U * 77) << spec;
    EXPECT_EQ(statistics.scales.count, 37 * matrix.groups * (std::string(spec) == "amxfp4" ? 2 : 1))
        << spec;
    EXPECT_EQ(statistics.scales.nan + statistics.scales.inf, 0U) << spec;
  }
}

TEST(QuantizedStatistics, ScalesAreCountedAsTheirTypeHasThem) {
  SerialExecutor serial;
  QuantizedMatrix matrix(parse_format("nvfp4"), 1, 64);
  matrix.scales = {0x38, 0x00, 0x01, 0x7F};  // 1, 0, 2^-9 (denormal), NaN
  const ValueStatistics scales = quantized_statistics(matrix, serial).scales;
  EXPECT_EQ(scales.nan, 1U);
  EXPECT_EQ(scales.zero, 1U);
  EXPECT_EQ(scales.denormal, 1U);
  EXPECT_EQ(scales.largest, 1.0F);
}

TEST(QuantizedStatistics, EndCodesAreTheLargestAndTheSmallestLevel) {
  SerialExecutor serial;
  QuantizedMatrix matrix(parse_format("mxfp4"), 1, 32);
  matrix.codes.assign(16, 0);
  matrix.codes[0] = 0xF7;  // 6 and -6
  matrix.codes[1] = 0x08;  // -0
  EXPECT_EQ(quantized_statistics(matrix, serial).end_codes, 2U);
}

}  // namespace
}  // namespace nybble
