// What QuantizedLinear promises besides its products (tests/kernels/gemm_test.cpp): views,
// executors, workspaces, options, errors.

#include "nybble/linear/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "nybble/quantize/rtn.h"
#include "nybble/tensor/packed_matrix.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

constexpr Path kPaths[] = {Path::a8, Path::a16, Path::a32, Path::a4};
constexpr std::size_t kRows = 40;  // three panels, the last one half empty
constexpr std::size_t kCols = 72;  // not a whole number of groups

QuantizedMatrix make_weight(const char* format = "int4", std::size_t rows = kRows,
                            std::size_t cols = kCols) {
  SerialExecutor executor;
  const std::vector<float> values = normal_values(rows * cols, rows + cols);
  return quantize_rtn({values.data(), rows, cols}, parse_format(format), executor);
}

QuantizedLinear make_linear(const QuantizedMatrix& weight, const LinearOptions& options = {},
                            Transforms transforms = {}) {
  SerialExecutor executor;
  return {weight, options, executor, std::move(transforms)};
}

std::vector<float> run(const QuantizedLinear& linear, const std::vector<float>& x,
                       Workspace& workspace, Executor& executor) {
  const std::size_t m = x.size() / linear.cols();
  std::vector<float> y(m * linear.rows(), std::numeric_limits<float>::quiet_NaN());
  linear.run({x.data(), m, linear.cols()}, {y.data(), m, linear.rows()}, workspace, executor);
  return y;
}

std::vector<float> run(const QuantizedLinear& linear, const std::vector<float>& x) {
  Workspace workspace;
  SerialExecutor executor;
  return run(linear, x, workspace, executor);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(Linear, PathNames) {
  for (const Path path : kPaths) EXPECT_EQ(parse_path(path_name(path)), path);
  EXPECT_EQ(parse_path("a32"), Path::a32);
  for (const char* name : {"", "A8", "a8 ", "a", "a64"}) {
    expect_error(ErrorCode::bad_option, {"path", "'" + std::string(name) + "'", "a16"},
                 [&] { parse_path(name); });
  }
}

TEST(Linear, StridesLeaveWhatLiesBetweenRowsAlone) {
  constexpr std::size_t kBatch = 5, kStrideX = kCols + 3, kStrideY = kRows + 7;
  constexpr float kUntouched = 12345.0F;
  const std::vector<float> x = normal_values(kBatch * kCols, 1);
  // Reading what lies between the rows of x would make NaNs; the last row ends with its buffer.
  std::vector<float> wide_x((kBatch - 1) * kStrideX + kCols,
                            std::numeric_limits<float>::quiet_NaN());
  for (std::size_t m = 0; m < kBatch; ++m) {
    std::copy_n(&x[m * kCols], kCols, &wide_x[m * kStrideX]);
  }
  Transforms transforms;
  transforms.bias = normal_values(kRows, 2);
  transforms.hadamard.block = 8;
  transforms.low_rank = {2, normal_values(2 * kCols, 3), normal_values(2 * kRows, 4)};
  ThreadExecutor executor(3);
  for (const Path path : kPaths) {
    for (const bool transform : {false, true}) {
      SCOPED_TRACE(std::string(path_name(path)) + (transform ? " with transforms" : ""));
      const QuantizedLinear linear =
          make_linear(make_weight(), {.path = path}, transform ? transforms : Transforms{});
      const std::vector<float> expected = run(linear, x);
      std::vector<float> y((kBatch - 1) * kStrideY + kRows, kUntouched);
      Workspace workspace;
      linear.run({wide_x.data(), kBatch, kCols, kStrideX}, {y.data(), kBatch, kRows, kStrideY},
                 workspace, executor);
      std::vector<float> rows;
      for (std::size_t i = 0; i < y.size(); ++i) {
        if (i % kStrideY < kRows) {
          rows.push_back(y[i]);
        } else {
          ASSERT_EQ(y[i], kUntouched) << "wrote past row " << i / kStrideY;
        }
      }
      EXPECT_TRUE(same_bits(rows, expected));
    }
  }
}

/// Claims any concurrency, runs the tasks one by one, the last first.
class ReversedExecutor final : public Executor {
 public:
  explicit ReversedExecutor(std::size_t concurrency) : concurrency_(concurrency) {}
  [[nodiscard]] std::size_t concurrency() const noexcept override { return concurrency_; }
  void parallel_for(std::size_t count, TaskRef task) override {
    for (std::size_t i = count; i-- > 0;) task(i);
  }

 private:
  std::size_t concurrency_;
};

TEST(Linear, MoreTasksThanRowsOrPanels) {
  Transforms transforms;
  transforms.low_rank = {9, normal_values(9 * kCols, 3), normal_values(9 * kRows, 4)};
  for (const Path path : kPaths) {
    const QuantizedLinear linear = make_linear(make_weight(), {.path = path}, transforms);
    for (const std::size_t m : {1U, 2U, 4U, 7U}) {
      SCOPED_TRACE(std::string(path_name(path)) + " M = " + std::to_string(m));
      const std::vector<float> x = normal_values(m * kCols, m);
      const std::vector<float> expected = run(linear, x);
      for (const std::size_t concurrency : {2U, 3U, 5U, 16U, 1000U}) {
        ReversedExecutor executor(concurrency);
        Workspace workspace;
        EXPECT_TRUE(same_bits(run(linear, x, workspace, executor), expected)) << concurrency;
        EXPECT_GE(workspace.size(), linear.workspace_bytes(m, concurrency));
      }
      ThreadExecutor threads(16);
      Workspace workspace;
      EXPECT_TRUE(same_bits(run(linear, x, workspace, threads), expected));
    }
  }
}

/// A pool that grows after the first call of concurrency(). That its tasks keep to the workspace,
/// which was made for one, is what sanitizers see.
class GrowingExecutor final : public Executor {
 public:
  [[nodiscard]] std::size_t concurrency() const noexcept override { return asked_++ == 0 ? 1 : 64; }
  void parallel_for(std::size_t count, TaskRef task) override {
    ++calls_;
    most_ = std::max(most_, count);
    for (std::size_t i = 0; i < count; ++i) task(i);
  }
  [[nodiscard]] std::size_t calls() const { return calls_; }
  [[nodiscard]] std::size_t most() const { return most_; }

 private:
  mutable std::size_t asked_ = 0;
  std::size_t calls_ = 0;
  std::size_t most_ = 0;
};

TEST(Linear, ConcurrencyMayChangeBetweenTwoCalls) {
  constexpr std::size_t kBatch = 50;
  Transforms transforms;
  transforms.low_rank = {9, normal_values(9 * kCols, 3), normal_values(9 * kRows, 4)};
  const QuantizedLinear linear = make_linear(make_weight(), {}, transforms);
  const std::vector<float> x = normal_values(kBatch * kCols, 5);
  Workspace workspace;
  GrowingExecutor executor;
  const std::vector<float> y = run(linear, x, workspace, executor);
  EXPECT_EQ(executor.calls(), 3U);
  EXPECT_LT(executor.most(), 64U);
  EXPECT_EQ(workspace.size(), linear.workspace_bytes(kBatch, 1));
  EXPECT_TRUE(same_bits(y, run(linear, x)));
}

TEST(Linear, RunUncheckedNeedsNoMoreThanOneTasksScratch) {
  constexpr std::size_t kBatch = 13;
  const std::vector<float> x = normal_values(kBatch * kCols, 7);
  ThreadExecutor executor(4);
  for (const Path path : kPaths) {
    const QuantizedLinear linear = make_linear(make_weight(), {.path = path});
    for (const std::size_t tasks : {1U, 2U, 4U}) {
      Workspace workspace;
      workspace.reserve(linear.workspace_bytes(kBatch, tasks));
      std::vector<float> y(kBatch * kRows);
      linear.run_unchecked({x.data(), kBatch, kCols}, {y.data(), kBatch, kRows}, workspace,
                           executor);
      EXPECT_TRUE(same_bits(y, run(linear, x))) << path_name(path) << ", " << tasks << " tasks";
    }
  }
}

TEST(Linear, OneWorkspaceServesManyLayers) {
  Workspace workspace;
  SerialExecutor executor;
  for (const char* format : {"int4", "amxfp4", "nf4"}) {
    for (const Path path : kPaths) {
      for (const std::size_t m : {9U, 1U}) {
        const QuantizedLinear linear =
            make_linear(make_weight(format, 20 * m, 50 + m), {.path = path});
        const std::vector<float> x = normal_values(m * linear.cols(), m);
        EXPECT_TRUE(same_bits(run(linear, x, workspace, executor), run(linear, x)))
            << format << " " << path_name(path) << " M = " << m;
      }
    }
  }
}

TEST(Linear, WorkspaceGrowsAndNeverShrinks) {
  Workspace workspace;
  EXPECT_EQ(workspace.size(), 0U);
  workspace.reserve(1000);
  const std::size_t size = workspace.size();
  EXPECT_GE(size, 1000U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(workspace.data()) % 64, 0U);
  const std::byte* data = workspace.data();
  workspace.reserve(10);
  EXPECT_EQ(workspace.size(), size);
  EXPECT_EQ(workspace.data(), data);
}

TEST(Linear, MovedFromWorkspaceCanBeUsedAgain) {
  const QuantizedLinear linear = make_linear(make_weight());
  const std::vector<float> x = normal_values(3 * kCols, 6);
  SerialExecutor executor;
  Workspace first;
  const std::vector<float> expected = run(linear, x, first, executor);
  const std::size_t size = first.size();
  Workspace second = std::move(first);
  EXPECT_EQ(second.size(), size);
  EXPECT_EQ(first.size(), 0U);
  EXPECT_EQ(first.data(), nullptr);
  EXPECT_TRUE(same_bits(run(linear, x, first, executor), expected));
  EXPECT_TRUE(same_bits(run(linear, x, second, executor), expected));
  second = std::move(first);
  EXPECT_TRUE(same_bits(run(linear, x, first, executor), expected));
}

TEST(Linear, RunRefusesWhatDoesNotFit) {
  const QuantizedLinear linear = make_linear(make_weight());
  const std::vector<float> x(4 * kCols);
  std::vector<float> y(4 * kRows, 7.0F);
  const std::vector<float> before = y;
  Workspace workspace;
  SerialExecutor executor;
  const auto refuse = [&](const std::vector<std::string>& parts, MatrixView from,
                          MutableMatrixView to) {
    expect_error(ErrorCode::bad_shape, parts, [&] { linear.run(from, to, workspace, executor); });
  };
  const MatrixView good_x(x.data(), 2, kCols);
  const MutableMatrixView good_y(y.data(), 2, kRows);
  refuse({"71", "72"}, {x.data(), 2, kCols - 1}, good_y);
  refuse({"73", "72"}, {x.data(), 2, kCols + 1}, good_y);
  refuse({"39", "40"}, good_x, {y.data(), 2, kRows - 1});
  refuse({"41", "40"}, good_x, {y.data(), 2, kRows + 1});
  refuse({"3 x 72", "2 x 40"}, {x.data(), 3, kCols}, good_y);
  refuse({"0 x 72", "2 x 40"}, {x.data(), 0, kCols}, good_y);
  refuse({"2 x 72", "0 x 40"}, good_x, {y.data(), 0, kRows});
  refuse({"x", "null"}, {nullptr, 2, kCols}, good_y);
  refuse({"y", "null"}, good_x, {nullptr, 2, kRows});
  refuse({"x", "stride 71"}, {x.data(), 2, kCols, kCols - 1}, good_y);
  refuse({"y", "stride 39"}, good_x, {y.data(), 2, kRows, kRows - 1});
  EXPECT_EQ(y, before);
}

TEST(Linear, RunRefusesOverlap) {
  constexpr std::size_t kBatch = 3;
  const QuantizedLinear linear = make_linear(make_weight());
  const std::vector<float> values = normal_values(kBatch * kCols, 8);
  const std::vector<float> expected = run(linear, values);
  std::vector<float> memory(kBatch * (kCols + 2 * kRows));
  float* x = memory.data() + kBatch * kRows;
  std::copy(values.begin(), values.end(), x);
  const std::vector<float> before = memory;
  Workspace workspace;
  SerialExecutor executor;
  const auto run_into = [&](float* y) {
    linear.run({x, kBatch, kCols}, {y, kBatch, kRows}, workspace, executor);
  };
  for (float* y : {x, x + 1, x + kBatch * kCols - 1, x - kBatch * kRows + 1}) {
    expect_error(ErrorCode::bad_shape, {"x", "y", "overlap"}, [&] { run_into(y); });
    EXPECT_EQ(memory, before);
  }
  // Side by side is not an overlap.
  for (float* y : {x + kBatch * kCols, x - kBatch * kRows}) {
    run_into(y);
    EXPECT_TRUE(same_bits({y, y + kBatch * kRows}, expected));
  }
}

TEST(Linear, RefusesOptionsThatDoNotGoTogether) {
  const QuantizedMatrix weight = make_weight();
  const auto refuse = [&](ErrorCode code, const std::vector<std::string>& parts,
                          const LinearOptions& options) {
    expect_error(code, parts, [&] { make_linear(weight, options); });
  };
  for (const Path path : kPaths) {
    SCOPED_TRACE(path_name(path));
    if (path != Path::a4) {
      refuse(ErrorCode::bad_option, {"mxfp4", "a4", path_name(path)},
             {.path = path, .activations = parse_format("mxfp4")});
    }
    if (path != Path::a8) {
      refuse(ErrorCode::bad_option, {"a8", path_name(path)}, {.path = path, .scale_per_row = true});
    }
    refuse(ErrorCode::bad_option, {"'pentium'"}, {.path = path, .target = "pentium"});
  }
  refuse(ErrorCode::unsupported, {"nf4", "double"},
         {.path = Path::a4, .activations = parse_format("nf4:double=true")});
  // The weight's own format is what activations default to.
  expect_error(ErrorCode::unsupported, {"nf4", "double"},
               [] { make_linear(make_weight("nf4:double=true"), {.path = Path::a4}); });
  for (const TargetInfo& target : list_targets()) {
    if (!target.supported) {
      refuse(ErrorCode::unsupported, {target.name}, {.target = target.name});
    }
  }
}

void expect_malformed(const QuantizedMatrix& matrix) {
  SerialExecutor executor;
  std::vector<float> out(kRows * kCols);
  const auto refuse = [](auto action) { expect_error(ErrorCode::bad_shape, {}, action); };
  refuse([&] { matrix.check(); });
  refuse([&] { dequantize(matrix, {out.data(), kRows, kCols}, executor); });
  refuse([&] { const PackedMatrix packed(matrix, executor); });
  refuse([&] { make_linear(matrix); });
}

TEST(Linear, RefusesMalformedMatrices) {
  for (const char* format : {"int4", "int4:zero_point=true", "int4:group=row", "nf4:double=true",
                             "mxfp4", "nvfp4", "amxfp4"}) {
    SCOPED_TRACE(format);
    const QuantizedMatrix good = make_weight(format);
    good.check();
    const auto spoiled = [&](auto spoil) {
      QuantizedMatrix bad = good;
      spoil(bad);
      expect_malformed(bad);
    };
    expect_malformed(QuantizedMatrix(parse_format(format)));
    spoiled([](QuantizedMatrix& q) { q.codes.clear(); });
    spoiled([](QuantizedMatrix& q) { q.codes.pop_back(); });
    spoiled([](QuantizedMatrix& q) { q.codes.push_back(0); });
    spoiled([](QuantizedMatrix& q) { q.scales.clear(); });
    spoiled([](QuantizedMatrix& q) { q.scales.pop_back(); });
    spoiled([](QuantizedMatrix& q) { q.group /= 2; });
    spoiled([](QuantizedMatrix& q) { q.group = 0; });
    spoiled([](QuantizedMatrix& q) { q.groups += 1; });
    spoiled([](QuantizedMatrix& q) { q.padded_cols += 2; });
    spoiled([](QuantizedMatrix& q) { q.rows = 0; });
    spoiled([](QuantizedMatrix& q) { q.cols = 0; });
    spoiled([](QuantizedMatrix& q) { q.rows += 1; });
    spoiled([](QuantizedMatrix& q) { q.rows = std::numeric_limits<std::size_t>::max(); });
    spoiled([](QuantizedMatrix& q) { q.cols = std::numeric_limits<std::size_t>::max(); });
    spoiled([](QuantizedMatrix& q) {
      if (q.zero_points.empty())
        q.zero_points.push_back(0);
      else
        q.zero_points.clear();
    });
    spoiled([](QuantizedMatrix& q) {
      if (q.nested_scales.empty())
        q.nested_scales.push_back(1);
      else
        q.nested_scales.clear();
    });
    spoiled([](QuantizedMatrix& q) {
      q.format = parse_format(q.format.info().name == "fp4_bnb" ? "nvfp4" : "fp4_bnb:block=256");
    });
  }
}

TEST(Linear, BiasIsAddedToTheProduct) {
  const std::vector<float> x = normal_values(3 * kCols, 9);
  Transforms transforms;
  transforms.bias = normal_values(kRows, 10);
  for (const Path path : kPaths) {
    SCOPED_TRACE(path_name(path));
    std::vector<float> expected = run(make_linear(make_weight(), {.path = path}), x);
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += transforms.bias[i % kRows];
    const QuantizedLinear linear = make_linear(make_weight(), {.path = path}, transforms);
    EXPECT_TRUE(same_bits(run(linear, x), expected));
    // The product of zeros is nothing, so the bias is all that is left.
    const std::vector<float> zeros(2 * kCols);
    const std::vector<float> y = run(linear, zeros);
    for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], transforms.bias[i % kRows]);
  }
}

TEST(Linear, MovesLikeAValue) {
  const std::vector<float> x = normal_values(2 * kCols, 11);
  QuantizedLinear first = make_linear(make_weight());
  const std::vector<float> expected = run(first, x);
  QuantizedLinear second = std::move(first);
  EXPECT_TRUE(same_bits(run(second, x), expected));
  first = std::move(second);
  EXPECT_TRUE(same_bits(run(first, x), expected));
}

TEST(Linear, PackedBytesAreThoseOfTheFormat) {
  constexpr std::size_t kSize = 512;
  for (const char* format :
       {"int4", "int4:group=128,scale=bf16", "int4:group=row", "int4:zero_point=true", "fp4", "nf4",
        "fp4_bnb", "mxfp4", "nvfp4", "amxfp4"}) {
    const QuantizedMatrix weight = make_weight(format, kSize, kSize);
    const double expected = weight.bits_per_element() * static_cast<double>(kSize * kSize) / 8;
    const QuantizedLinear linear = make_linear(weight);
    EXPECT_EQ(linear.rows(), kSize);
    EXPECT_EQ(linear.cols(), kSize);
    // Zero points take a byte where 4 bits count: 1/37 more with groups of 32.
    EXPECT_GE(static_cast<double>(linear.packed_bytes()), expected) << format;
    EXPECT_LE(static_cast<double>(linear.packed_bytes()), 1.03 * expected) << format;
  }
}

TEST(Linear, ExplainNamesTheKernel) {
  for (const Path path : kPaths) {
    const QuantizedLinear linear = make_linear(make_weight(), {.path = path, .target = "scalar"});
    EXPECT_NE(linear.kernel().find("_scalar"), std::string::npos) << linear.kernel();
    EXPECT_NE(linear.explain().find(linear.kernel()), std::string::npos) << linear.explain();
    EXPECT_NE(linear.explain().find("forced by the caller"), std::string::npos);
  }
}

}  // namespace
}  // namespace nybble::test
