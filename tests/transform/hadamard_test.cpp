#include "src/transform/hadamard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/random.h"

namespace nybble::test {
namespace {

/// Every order there is up to 300: entries +-1, rows orthogonal, the transposed one its inverse.
TEST(Hadamard, EveryOrder) {
  std::size_t orders = 0;
  for (std::size_t order = 1; order <= 300; ++order) {
    if (!has_hadamard(order)) continue;
    SCOPED_TRACE(order);
    ++orders;
    const double norm = std::sqrt(static_cast<double>(order));
    // Sums of at most `order` roundings, twice.
    const double tolerance = 2 * static_cast<double>(order + 4) * 0x1p-24;
    std::vector<double> matrix(order * order);  // row i: what H makes of the i-th unit vector
    for (std::size_t i = 0; i < order; ++i) {
      std::vector<float> x(order);
      x[i] = 1;
      hadamard(x.data(), order, false);
      for (std::size_t j = 0; j < order; ++j) {
        matrix[i * order + j] = static_cast<double>(x[j]) * norm;
        ASSERT_NEAR(std::fabs(matrix[i * order + j]), 1, tolerance);
      }
      hadamard(x.data(), order, true);
      for (std::size_t j = 0; j < order; ++j) ASSERT_NEAR(x[j], i == j ? 1 : 0, tolerance);
    }
    for (std::size_t i = 0; i < order; ++i) {
      for (std::size_t k = 0; k < i; ++k) {
        double sum = 0;
        for (std::size_t j = 0; j < order; ++j)
          sum += matrix[i * order + j] * matrix[k * order + j];
        ASSERT_NEAR(sum, 0, 1e-3);
      }
    }
  }
  // 9 powers of two, and the Paley orders among the multiples of 4.
  EXPECT_GT(orders, 50U);
  for (const std::size_t order : {12U, 20U, 28U, 36U, 44U, 108U, 140U, 180U}) {
    EXPECT_TRUE(has_hadamard(order)) << order;
  }
  for (const std::size_t order : {0U, 3U, 6U, 18U, 52U, 92U}) {
    EXPECT_FALSE(has_hadamard(order)) << order;
  }
}

TEST(Hadamard, LargestForRealLayers) {
  EXPECT_EQ(largest_hadamard(4096, 4096), 4096U);
  EXPECT_EQ(largest_hadamard(768, 4096), 768U);     // 12 * 64
  EXPECT_EQ(largest_hadamard(14336, 4096), 3584U);  // 28 * 128
  EXPECT_EQ(largest_hadamard(11008, 4096), 256U);   // 43 * 256, and no order has a factor of 43
  EXPECT_EQ(largest_hadamard(2880, 4096), 2880U);   // 180 * 16
  EXPECT_EQ(largest_hadamard(15, 4096), 1U);
}

}  // namespace
}  // namespace nybble::test
