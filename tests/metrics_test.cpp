#include "nybble/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "nybble/error.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble {
namespace {

TEST(ErrorMetrics, AreThoseOfTheirDefinitions) {
  SerialExecutor serial;
  const std::vector<float> x = {1, -2, 3, 0};
  const std::vector<float> y = {1, -1, 3, 0.5F};
  const ErrorMetrics found = error_metrics(x, y, serial);
  EXPECT_EQ(found.mse, 1.25 / 4);
  EXPECT_EQ(found.relative_mse, 1.25 / 14);
  EXPECT_DOUBLE_EQ(found.sqnr_db, -10 * std::log10(1.25 / 14));
  EXPECT_EQ(found.max_error, 1);
  EXPECT_DOUBLE_EQ(found.cosine, 12 / std::sqrt(14 * 11.25));
}

TEST(ErrorMetrics, NoErrorIsInfiniteDecibels) {
  SerialExecutor serial;
  const std::vector<float> x = {1, -2};
  EXPECT_EQ(error_metrics(x, x, serial).sqnr_db, INFINITY);
  const std::vector<float> zeros = {0, 0};
  EXPECT_EQ(error_metrics(zeros, zeros, serial).sqnr_db, INFINITY);
  EXPECT_EQ(error_metrics(zeros, x, serial).sqnr_db, -INFINITY);
}

TEST(ErrorMetrics, ZerosAreLikeZerosAndUnlikeAnythingElse) {
  SerialExecutor serial;
  const std::vector<float> zeros = {0, -0.0F};
  const std::vector<float> x = {1, -2};
  const std::vector<float> nan = {1, NAN};
  EXPECT_EQ(error_metrics(zeros, zeros, serial).cosine, 1);
  EXPECT_EQ(error_metrics(zeros, x, serial).cosine, 0);
  EXPECT_EQ(error_metrics(x, zeros, serial).cosine, 0);
  EXPECT_TRUE(std::isnan(error_metrics(zeros, nan, serial).cosine));
  EXPECT_TRUE(std::isnan(error_metrics(nan, zeros, serial).cosine));
}

TEST(ErrorMetrics, NanIsInTheResultWhereverItWas) {
  test::ThreadExecutor threads(3);
  for (const std::size_t place : {std::size_t{0}, std::size_t{100'000}, std::size_t{199'999}}) {
    const std::vector<float> x(200'000, 1.0F);
    std::vector<float> y(200'000, 2.0F);
    y[place] = NAN;
    const ErrorMetrics found = error_metrics(x, y, threads);
    EXPECT_TRUE(std::isnan(found.max_error)) << place;
    EXPECT_TRUE(std::isnan(found.mse)) << place;
    EXPECT_TRUE(std::isnan(found.sqnr_db)) << place;
  }
}

TEST(ErrorMetrics, ThreadsDoNotChangeABit) {
  SerialExecutor serial;
  test::ThreadExecutor threads(3);
  const std::vector<float> x = test::normal_values(300'001, 1);
  const std::vector<float> y = test::normal_values(300'001, 2);
  const ErrorMetrics one = error_metrics(x, y, serial);
  const ErrorMetrics three = error_metrics(x, y, threads);
  EXPECT_EQ(one.mse, three.mse);
  EXPECT_EQ(one.cosine, three.cosine);
  EXPECT_EQ(one.max_error, three.max_error);
}

TEST(ErrorMetrics, SizesMustAgree) {
  SerialExecutor serial;
  const std::vector<float> x = {1, 2};
  const std::vector<float> y = {1};
  EXPECT_THROW(error_metrics(x, y, serial), Error);
  EXPECT_THROW(error_metrics({}, {}, serial), Error);
}

}  // namespace
}  // namespace nybble
