#include "src/linalg/dense.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::linalg {
namespace {

using test::normal_values;
using test::ThreadExecutor;

/// The error of `depth` FMAs in f32, by the standard bound on sums of products.
double bound(double magnitudes, std::size_t depth) {
  return magnitudes * static_cast<double>(depth + 2) * 0x1p-24;
}

struct Sizes {
  std::size_t rows, depth, cols;
};

constexpr Sizes kSizes[] = {{1, 1, 1}, {3, 5, 2}, {7, 64, 65}, {200, 300, 130}, {65, 257, 64}};

TEST(Dense, ProductsAgainstF64) {
  ThreadExecutor executor(3);
  for (const Sizes& size : kSizes) {
    SCOPED_TRACE(std::to_string(size.rows) + " " + std::to_string(size.depth));
    const std::vector<float> a = normal_values(size.rows * size.depth, 1);
    const std::vector<float> b = normal_values(size.depth * size.cols, 2);
    std::vector<float> b_transposed(b.size());
    transpose({b.data(), size.depth, size.cols}, {b_transposed.data(), size.cols, size.depth},
              executor);
    const std::vector<float> before = normal_values(size.rows * size.cols, 3);
    for (const Update update : {Update::assign, Update::add, Update::subtract}) {
      std::vector<float> c = before;
      std::vector<float> d = before;
      multiply({a.data(), size.rows, size.depth}, {b.data(), size.depth, size.cols},
               {c.data(), size.rows, size.cols}, update, executor);
      multiply_transposed({a.data(), size.rows, size.depth},
                          {b_transposed.data(), size.cols, size.depth},
                          {d.data(), size.rows, size.cols}, update, executor);
      EXPECT_EQ(c, d);
      for (std::size_t i = 0; i < size.rows; ++i) {
        for (std::size_t j = 0; j < size.cols; ++j) {
          double sum = 0;
          double magnitude = std::fabs(static_cast<double>(before[i * size.cols + j]));
          for (std::size_t k = 0; k < size.depth; ++k) {
            const double product = static_cast<double>(a[i * size.depth + k]) *
                                   static_cast<double>(b[k * size.cols + j]);
            sum += product;
            magnitude += std::fabs(product);
          }
          const auto start = static_cast<double>(before[i * size.cols + j]);
          const double expected = update == Update::assign ? sum
                                  : update == Update::add  ? start + sum
                                                           : start - sum;
          ASSERT_NEAR(static_cast<double>(c[i * size.cols + j]), expected,
                      bound(magnitude, size.depth));
        }
      }
    }
  }
}

TEST(Dense, TrianglesAreRightWhereTheyMustBe) {
  ThreadExecutor executor(2);
  const std::size_t n = 200;
  const std::vector<float> a = normal_values(n * n, 1);
  std::vector<float> lower = normal_values(n * n, 2);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = i + 1; j < n; ++j) lower[i * n + j] = 0;
  }
  const MatrixView av(a.data(), n, n);
  const MatrixView bv(lower.data(), n, n);
  std::vector<float> all(n * n);
  std::vector<float> part(n * n);
  multiply(av, bv, {all.data(), n, n}, Update::assign, executor);
  multiply(av, bv, {part.data(), n, n}, Update::assign, executor, {.b_lower = true});
  for (std::size_t i = 0; i < n * n; ++i) ASSERT_EQ(all[i], part[i]) << i;
  for (const bool low : {true, false}) {
    multiply(av, bv, {part.data(), n, n}, Update::assign, executor,
             {.lower_only = low, .upper_only = !low});
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) {
        if (low ? j > i : j < i) continue;
        ASSERT_EQ(all[i * n + j], part[i * n + j]) << i << " " << j;
      }
    }
  }
}

/// Well and badly scaled, smaller and larger than the blocks.
TEST(Dense, UpperFactorInvertsTheMatrix) {
  ThreadExecutor executor(2);
  for (const std::size_t n : {1U, 2U, 127U, 128U, 129U, 300U}) {
    for (const float spread : {0.0F, 6.0F}) {
      SCOPED_TRACE(std::to_string(n) + " spread " + std::to_string(spread));
      std::vector<float> x = normal_values(2 * n * n, n);
      for (std::size_t i = 0; i < x.size(); ++i) {
        // Channels from 10^-spread to 10^spread.
        const float at = n == 1 ? 0 : static_cast<float>(i % n) / static_cast<float>(n - 1);
        x[i] *= std::pow(10.0F, spread * (2 * at - 1));
      }
      std::vector<float> transposed(x.size());
      transpose({x.data(), 2 * n, n}, {transposed.data(), n, 2 * n}, executor);
      std::vector<float> h(n * n);
      const MatrixView columns(transposed.data(), n, 2 * n);
      multiply_transposed(columns, columns, {h.data(), n, n}, Update::assign, executor);
      for (std::size_t i = 0; i < n; ++i) h[i * n + i] *= 1.01F;
      std::vector<float> u = h;
      ASSERT_TRUE(invert_to_upper_factor({u.data(), n, n}, executor));
      // U H U^T = 1. Its error is the factorisation's: n eps times the condition of the scaled H,
      // at most about 6^2 for 2 n random rows.
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < i; ++j) ASSERT_EQ(u[i * n + j], 0) << i << " " << j;
      }
      std::vector<double> uh(n * n);
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t k = i; k < n; ++k) {
          for (std::size_t j = 0; j < n; ++j) {
            uh[i * n + j] += static_cast<double>(u[i * n + k]) * static_cast<double>(h[k * n + j]);
          }
        }
      }
      const double tolerance = static_cast<double>(n + 2) * 36 * 0x1p-24;
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < n; ++j) {
          double sum = 0;
          for (std::size_t k = j; k < n; ++k) {
            sum += uh[i * n + k] * static_cast<double>(u[j * n + k]);
          }
          ASSERT_NEAR(sum, i == j ? 1.0 : 0.0, tolerance) << i << " " << j;
        }
      }
    }
  }
}

TEST(Dense, UpperFactorRefusesWhatIsNotPositiveDefinite) {
  SerialExecutor serial;
  std::vector<float> h = {1, 2, 2, 1};
  EXPECT_FALSE(invert_to_upper_factor({h.data(), 2, 2}, serial));
  h = {1, 0, 0, 0};
  EXPECT_FALSE(invert_to_upper_factor({h.data(), 2, 2}, serial));
  h = {1, 0, 0, -1};
  EXPECT_FALSE(invert_to_upper_factor({h.data(), 2, 2}, serial));
  h = {1, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::quiet_NaN(), 1};
  EXPECT_FALSE(invert_to_upper_factor({h.data(), 2, 2}, serial));
}

}  // namespace
}  // namespace nybble::linalg
