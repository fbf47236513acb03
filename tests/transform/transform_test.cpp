// Transforms around QuantizedLinear on path a32, with weights their format holds exactly, against
// the definition in f64: what is left is the rounding of f32 sums.

#include "nybble/transform/transform.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "nybble/format/registry.h"
#include "nybble/linear/linear.h"
#include "nybble/quantize/rtn.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

constexpr std::size_t kRows = 37;
constexpr std::size_t kCols = 256;
constexpr std::size_t kBatch = 5;

/// Quantizes and checks that nothing was lost.
QuantizedMatrix quantized_exactly(const std::vector<float>& weight, std::size_t rows,
                                  std::size_t cols, const char* format) {
  SerialExecutor executor;
  QuantizedMatrix q = quantize_rtn({weight.data(), rows, cols}, parse_format(format), executor);
  std::vector<float> decoded(weight.size());
  dequantize(q, {decoded.data(), rows, cols}, executor);
  EXPECT_EQ(decoded, weight);
  return q;
}

/// Quarters of integers, the largest of each group of 32 being 7: int4's scale is 1/4 exactly.
std::vector<float> quarters() {
  Random random(1);
  std::vector<float> out(kRows * kCols);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const int level = i % 32 == 0 ? 7 : static_cast<int>(random.index(15)) - 7;
    out[i] = static_cast<float>(level) * 0.25F;
  }
  return out;
}

/// A layer whose product is x itself, so that y = T(x).
QuantizedMatrix identity_matrix(std::size_t size) {
  std::vector<float> weight(size * size);
  for (std::size_t i = 0; i < size; ++i) weight[i * size + i] = 1;
  return quantized_exactly(weight, size, size, "mxfp4");
}

std::vector<float> run(const QuantizedMatrix& weight, const Transforms& transforms,
                       const std::vector<float>& x, std::size_t m) {
  ThreadExecutor executor(3);
  const QuantizedLinear linear(weight, {.path = Path::a32}, executor, transforms);
  std::vector<float> y(m * weight.rows, std::numeric_limits<float>::quiet_NaN());
  Workspace workspace;
  linear.run({x.data(), m, weight.cols}, {y.data(), m, weight.rows}, workspace, executor);
  return y;
}

/// A value in f64 and the sum of the absolute values of what was added up for it.
struct Sum {
  double value = 0;
  double bound = 0;

  void add(const Sum& term, double factor) {
    value += term.value * factor;
    bound += term.bound * std::fabs(factor);
  }
};

std::vector<Sum> transformed(const Transforms& t, const float* x) {
  std::vector<Sum> scaled(kCols);
  for (std::size_t i = 0; i < kCols; ++i) {
    const double factor =
        t.channel_scale.scale.empty() ? 1 : static_cast<double>(t.channel_scale.scale[i]);
    const double value = static_cast<double>(x[i]) * factor;
    scaled[i] = {value, std::fabs(value)};
  }
  std::vector<Sum> out(kCols);
  for (std::size_t i = 0; i < kCols; ++i) {
    out[i] = t.permutation.source.empty() ? scaled[i] : scaled[t.permutation.source[i]];
  }
  const std::size_t block = t.hadamard.block;
  if (block == 0) return out;
  // Sylvester's matrix: entry (i, j) is negative where i and j share an odd number of bits.
  std::vector<Sum> rotated(kCols);
  const double norm = 1 / std::sqrt(static_cast<double>(block));
  for (std::size_t i = 0; i < kCols; ++i) {
    for (std::size_t j = i / block * block; j < i / block * block + block; ++j) {
      const double sign = t.hadamard.signs.empty() ? 1 : static_cast<double>(t.hadamard.signs[j]);
      rotated[i].add(out[j],
                     std::popcount(i & j & (block - 1)) % 2 == 0 ? sign * norm : -sign * norm);
    }
  }
  return rotated;
}

std::vector<Sum> reference_row(const Transforms& t, const std::vector<float>& weight,
                               const float* x) {
  const std::vector<Sum> input = transformed(t, x);
  std::vector<Sum> y(kRows);
  for (std::size_t n = 0; n < kRows; ++n) {
    for (std::size_t k = 0; k < kCols; ++k) {
      y[n].add(input[k], static_cast<double>(weight[n * kCols + k]));
    }
    const auto original = [&](std::size_t k) {
      return Sum{static_cast<double>(x[k]), std::fabs(static_cast<double>(x[k]))};
    };
    for (std::size_t r = 0; r < t.low_rank.rank; ++r) {
      Sum projected;
      for (std::size_t k = 0; k < kCols; ++k) {
        projected.add(original(k), static_cast<double>(t.low_rank.a[r * kCols + k]));
      }
      y[n].add(projected, static_cast<double>(t.low_rank.b[n * t.low_rank.rank + r]));
    }
    if (!t.sparse.row_start.empty()) {
      for (std::size_t i = t.sparse.row_start[n]; i < t.sparse.row_start[n + 1]; ++i) {
        y[n].add(original(t.sparse.column[i]), static_cast<double>(t.sparse.value[i]));
      }
    }
    if (!t.bias.empty()) y[n].add({1, 1}, static_cast<double>(t.bias[n]));
  }
  return y;
}

void expect_as_defined(const Transforms& t) {
  const std::vector<float> weight = quarters();
  const QuantizedMatrix q = quantized_exactly(weight, kRows, kCols, "int4:group=32,scale=f32");
  const std::vector<float> x = normal_values(kBatch * kCols, 2);
  // Every term meets at most one rounding per addition of its sum (the longest has K + rank or the
  // entries of a sparse row, and log2(block) in the Hadamard transform), and ten in all for the
  // scales, products, 1 / sqrt(block) and the final additions.
  const double roundings =
      static_cast<double>(kCols + t.low_rank.rank + t.sparse.value.size()) + 8 + 10;
  for (const std::size_t m : {std::size_t{1}, kBatch}) {
    const std::vector<float> y = run(q, t, x, m);
    for (std::size_t row = 0; row < m; ++row) {
      const std::vector<Sum> expected = reference_row(t, weight, &x[row * kCols]);
      for (std::size_t n = 0; n < kRows; ++n) {
        ASSERT_LE(std::fabs(static_cast<double>(y[row * kRows + n]) - expected[n].value),
                  roundings * 0x1p-24 * expected[n].bound)
            << "M = " << m << ", row " << row << ", output " << n;
      }
    }
  }
}

std::vector<float> some_scales() {
  std::vector<float> out = normal_values(kCols, 3);
  for (float& x : out) x = std::exp2(x);
  return out;
}

std::vector<std::uint32_t> some_order(std::size_t size) {
  std::vector<std::uint32_t> out(size);
  std::iota(out.begin(), out.end(), 0U);
  Random random(4);
  for (std::size_t i = size; i > 1; --i) std::swap(out[i - 1], out[random.index(i)]);
  return out;
}

std::vector<float> some_signs() {
  Random random(5);
  std::vector<float> out(kCols);
  for (float& x : out) x = random.index(2) == 0 ? -1.0F : 1.0F;
  return out;
}

LowRank some_low_rank(std::size_t rank) {
  return {rank, normal_values(rank * kCols, 6), normal_values(rank * kRows, 7)};
}

/// Rows of 0, 1, 2, 3, 0, ... entries; a column may repeat.
SparseOutliers some_outliers() {
  Random random(8);
  SparseOutliers out;
  out.row_start.push_back(0);
  for (std::size_t n = 0; n < kRows; ++n) {
    for (std::size_t i = 0; i < n % 4; ++i) {
      out.column.push_back(static_cast<std::uint32_t>(random.index(kCols)));
      out.value.push_back(random.normal() * 20);
    }
    out.row_start.push_back(static_cast<std::uint32_t>(out.column.size()));
  }
  return out;
}

TEST(Transform, None) { expect_as_defined({}); }

TEST(Transform, ChannelScale) {
  Transforms t;
  t.channel_scale.scale = some_scales();
  expect_as_defined(t);
}

TEST(Transform, Permutation) {
  Transforms t;
  t.permutation.source = some_order(kCols);
  expect_as_defined(t);
}

TEST(Transform, HadamardOfEveryBlock) {
  for (std::size_t block = 1; block <= kCols; block *= 2) {
    for (const bool signs : {false, true}) {
      SCOPED_TRACE("block " + std::to_string(block) + (signs ? " with signs" : ""));
      Transforms t;
      t.hadamard.block = block;
      if (signs) t.hadamard.signs = some_signs();
      expect_as_defined(t);
    }
  }
}

TEST(Transform, LowRank) {
  for (const std::size_t rank : {1U, 16U, 70U}) {
    SCOPED_TRACE("rank " + std::to_string(rank));
    Transforms t;
    t.low_rank = some_low_rank(rank);
    expect_as_defined(t);
  }
}

TEST(Transform, SparseOutliers) {
  Transforms t;
  t.sparse = some_outliers();
  expect_as_defined(t);
}

TEST(Transform, NoSparseOutliersAtAll) {
  Transforms t;
  t.sparse.row_start.assign(kRows + 1, 0);
  expect_as_defined(t);
}

TEST(Transform, Bias) {
  Transforms t;
  t.bias = normal_values(kRows, 9);
  expect_as_defined(t);
}

TEST(Transform, AllTogether) {
  Transforms t;
  t.channel_scale.scale = some_scales();
  t.permutation.source = some_order(kCols);
  t.hadamard = {64, some_signs()};
  t.low_rank = some_low_rank(8);
  t.sparse = some_outliers();
  t.bias = normal_values(kRows, 9);
  EXPECT_TRUE(t.changes_input());
  EXPECT_TRUE(t.has_side_branch());
  expect_as_defined(t);
}

TEST(Transform, ScaleAndPermutationMoveValuesExactly) {
  constexpr std::size_t kSize = 96;
  const QuantizedMatrix identity = identity_matrix(kSize);
  const std::vector<float> x = normal_values(kSize, 10);
  Transforms t;
  t.channel_scale.scale = normal_values(kSize, 11);
  t.permutation.source = some_order(kSize);
  std::vector<float> expected;
  for (const std::uint32_t source : t.permutation.source) {
    expected.push_back(x[source] * t.channel_scale.scale[source]);
  }
  EXPECT_EQ(run(identity, t, x, 1), expected);
}

TEST(Transform, HadamardTwiceIsTheIdentity) {
  constexpr std::size_t kSize = 96;
  const QuantizedMatrix identity = identity_matrix(kSize);
  const std::vector<float> x = normal_values(kSize, 12);
  for (const std::size_t block : {1U, 2U, 4U, 8U, 16U, 32U}) {
    SCOPED_TRACE("block " + std::to_string(block));
    Transforms t;
    t.hadamard.block = block;
    const std::vector<float> once = run(identity, t, x, 1);
    const std::vector<float> twice = run(identity, t, once, 1);
    EXPECT_EQ(once == x, block == 1);
    for (std::size_t begin = 0; begin < kSize; begin += block) {
      // Both times log2(block) additions and three roundings for the factor; the transform of the
      // absolute values bounds the terms of each, and they are at most sqrt(block) times the norm.
      double squares = 0;
      for (std::size_t i = begin; i < begin + block; ++i) {
        squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      }
      const double roundings = 2 * (std::log2(static_cast<double>(block)) + 3);
      const double tolerance =
          roundings * 0x1p-24 * std::sqrt(static_cast<double>(block) * squares);
      for (std::size_t i = begin; i < begin + block; ++i) {
        EXPECT_NEAR(static_cast<double>(twice[i]), static_cast<double>(x[i]), tolerance);
      }
    }
  }
}

TEST(Transform, EmptyPartsAreNoWork) {
  EXPECT_FALSE(Transforms{}.changes_input());
  EXPECT_FALSE(Transforms{}.has_side_branch());
  Transforms{}.check(kRows, kCols);
}

/// check() of a transform that fits but for what `spoil` does to it.
template <class Spoil>
void expect_misfit(const std::vector<std::string>& parts, Spoil spoil) {
  Transforms t;
  t.channel_scale.scale = some_scales();
  t.permutation.source = some_order(kCols);
  t.hadamard = {64, some_signs()};
  t.low_rank = some_low_rank(8);
  t.sparse = some_outliers();
  t.bias = normal_values(kRows, 9);
  t.check(kRows, kCols);
  spoil(t);
  expect_error(ErrorCode::bad_shape, parts, [&] { t.check(kRows, kCols); });
}

TEST(Transform, ErrorsOfTheInputSide) {
  expect_misfit({"channel scale", "255", "256"},
                [](Transforms& t) { t.channel_scale.scale.pop_back(); });
  expect_misfit({"permutation", "257", "256"},
                [](Transforms& t) { t.permutation.source.push_back(0); });
  expect_misfit({"permutation", "repeated"},
                [](Transforms& t) { t.permutation.source[3] = t.permutation.source[200]; });
  expect_misfit({"permutation", "256"}, [](Transforms& t) { t.permutation.source[3] = 256; });
  expect_misfit({"hadamard", "52"}, [](Transforms& t) { t.hadamard.block = 52; });
  expect_misfit({"hadamard", "512"}, [](Transforms& t) { t.hadamard.block = 512; });
  expect_misfit({"hadamard", "1"}, [](Transforms& t) { t.hadamard.signs.resize(1); });
  expect_misfit({"hadamard"}, [](Transforms& t) { t.hadamard.block = 0; });
}

TEST(Transform, ErrorsOfTheSideBranches) {
  expect_misfit({"low rank"}, [](Transforms& t) { t.low_rank.a.pop_back(); });
  expect_misfit({"low rank"}, [](Transforms& t) { t.low_rank.b.pop_back(); });
  expect_misfit({"low rank"}, [](Transforms& t) { t.low_rank.rank = 0; });
  expect_misfit({"low rank"}, [](Transforms& t) { t.low_rank.rank = 9; });
  expect_misfit({"bias", "36", "37"}, [](Transforms& t) { t.bias.pop_back(); });
  expect_misfit({"sparse"}, [](Transforms& t) { t.sparse.row_start.pop_back(); });
  expect_misfit({"sparse"}, [](Transforms& t) { t.sparse.row_start.front() = 1; });
  expect_misfit({"sparse"}, [](Transforms& t) { t.sparse.row_start.back() += 1; });
  expect_misfit({"sparse"}, [](Transforms& t) { t.sparse.value.pop_back(); });
  expect_misfit({"sparse"}, [](Transforms& t) { t.sparse.row_start.clear(); });
  expect_misfit({"sparse", "row 4"}, [](Transforms& t) {
    t.sparse.row_start[5] = 0;  // Rows 0 to 4 have 0, 1, 2, 3 and 0 entries.
  });
  expect_misfit({"sparse", "column 256"}, [](Transforms& t) { t.sparse.column[7] = 256; });
}

TEST(Transform, SizesThatWrapAroundDoNotFit) {
  Transforms t;
  t.low_rank.rank = std::size_t{1} << 60;  // times 32 is 0 in 64 bits, the size of no values
  expect_error(ErrorCode::bad_shape, {"low rank"}, [&] { t.check(32, 32); });
}

TEST(Transform, LayersRefuseWhatDoesNotFit) {
  SerialExecutor executor;
  const QuantizedMatrix identity = identity_matrix(32);
  Transforms t;
  t.bias.resize(31);
  expect_error(ErrorCode::bad_shape, {"bias", "31", "32"},
               [&] { const QuantizedLinear linear(identity, {.path = Path::a32}, executor, t); });
}

}  // namespace
}  // namespace nybble::test
