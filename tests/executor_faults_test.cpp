// Executors that an engine may pass by mistake or in trouble: one that says it runs 0 tasks, one
// whose parallel_for throws.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "nybble/attention/kv_cache.h"
#include "nybble/format/registry.h"
#include "nybble/io/validate.h"
#include "nybble/linear/grouped_linear.h"
#include "nybble/quantize/method.h"
#include "nybble/quantize/rtn.h"
#include "nybble/tensor/packed_matrix.h"
#include "nybble/tensor/statistics.h"
#include "tests/quantize/layer_problem.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

constexpr std::size_t kRows = 72;
constexpr std::size_t kCols = 160;
constexpr std::size_t kM = 9;

/// Says what it was told to, and runs everything.
class SayingExecutor final : public Executor {
 public:
  explicit SayingExecutor(std::size_t said) : said_(said) {}
  [[nodiscard]] std::size_t concurrency() const noexcept override { return said_; }
  void parallel_for(std::size_t count, TaskRef task) override {
    ++calls;
    for (std::size_t i = 0; i < count; ++i) task(i);
  }
  std::size_t calls = 0;

 private:
  std::size_t said_;
};

struct PoolIsDown : std::runtime_error {
  PoolIsDown() : std::runtime_error("pool is down") {}
};

/// Throws out of a call of parallel_for, half of whose tasks it ran.
class FailingExecutor final : public Executor {
 public:
  explicit FailingExecutor(std::size_t call) : left_(call) {}
  [[nodiscard]] std::size_t concurrency() const noexcept override { return 4; }
  void parallel_for(std::size_t count, TaskRef task) override {
    const bool fails = left_ == 0;
    --left_;
    for (std::size_t i = 0; i < (fails ? count / 2 : count); ++i) task(i);
    if (fails) throw PoolIsDown();
  }

 private:
  std::size_t left_;
};

QuantizedMatrix make_matrix(const std::string& format, std::uint64_t seed,
                            std::size_t cols = kCols) {
  SerialExecutor serial;
  const std::vector<float> values = normal_values(kRows * cols, seed);
  return quantize_rtn({values.data(), kRows, cols}, parse_format(format), serial);
}

/// Everything that takes an executor, by name: floats that it computes.
struct Work {
  std::string name;
  std::function<std::vector<float>(Executor&)> run;
};

std::vector<float> as_floats(const QuantizedMatrix& matrix) {
  std::vector<float> out(matrix.codes.begin(), matrix.codes.end());
  out.insert(out.end(), matrix.scales.begin(), matrix.scales.end());
  return out;
}

std::vector<Work> all_work() {
  std::vector<Work> out;
  for (const Path path : {Path::a8, Path::a16, Path::a32, Path::a4}) {
    out.push_back({std::string("linear ") + path_name(path), [path](Executor& executor) {
                     SerialExecutor serial;
                     Transforms transforms;
                     transforms.bias = normal_values(kRows, 3);
                     const QuantizedLinear layer(make_matrix("int4", 1), {.path = path}, serial,
                                                 transforms);
                     const std::vector<float> x = normal_values(kM * kCols, 2);
                     std::vector<float> y(kM * kRows);
                     Workspace workspace;
                     layer.run({x.data(), kM, kCols}, {y.data(), kM, kRows}, workspace, executor);
                     return y;
                   }});
  }
  out.push_back({"pack", [](Executor& executor) {
                   const PackedMatrix packed(make_matrix("nvfp4", 1), executor);
                   return as_floats(packed.unpack(executor));
                 }});
  for (const bool summed : {false, true}) {
    out.push_back({summed ? "grouped, summed" : "grouped", [summed](Executor& executor) {
                     const std::vector<QuantizedMatrix> experts = {make_matrix("int4", 1),
                                                                   make_matrix("int4", 2)};
                     const GroupedLinear layer(experts, {}, executor);
                     const std::vector<std::uint32_t> routes = {0, 1, 1, kNoExpert, 0, 1};
                     const std::vector<float> weights = normal_values(routes.size(), 5);
                     const std::vector<float> x = normal_values(routes.size() * kCols, 4);
                     const std::size_t y_rows = summed ? 3 : routes.size();
                     std::vector<float> y(y_rows * kRows);
                     Workspace workspace;
                     const MatrixView in(x.data(), routes.size(), kCols);
                     const MutableMatrixView to(y.data(), y_rows, kRows);
                     if (summed) {
                       layer.run_summed(in, routes, weights, to, workspace, executor);
                     } else {
                       layer.run(in, routes, to, workspace, executor);
                     }
                     return y;
                   }});
  }
  for (const ValueGroups groups : {ValueGroups::tokens, ValueGroups::head_dim}) {
    out.push_back({groups == ValueGroups::tokens ? "cache, tokens" : "cache, head_dim",
                   [groups](Executor& executor) {
                     // Large enough that threads are asked.
                     constexpr std::size_t kHeads = 4;
                     constexpr std::size_t kDim = 64;
                     constexpr std::size_t kTokens = 80;
                     KvCache cache(kHeads, kDim, kTokens,
                                   {parse_format("int4"), parse_format("int4"), groups});
                     const std::vector<float> k = normal_values(kTokens * kHeads * kDim, 6);
                     const std::vector<float> v = normal_values(kTokens * kHeads * kDim, 7);
                     std::vector<float> y(k.size());
                     cache.append({k.data(), kTokens, kHeads * kDim},
                                  {v.data(), kTokens, kHeads * kDim}, executor);
                     Workspace workspace;
                     cache.attend({v.data(), kTokens, kHeads * kDim},
                                  {y.data(), kTokens, kHeads * kDim}, 0.125F, workspace, executor);
                     return y;
                   }});
  }
  for (const MethodFamily& family : method_families()) {
    out.push_back({"quantize " + family.name, [name = family.name](Executor& executor) {
                     const Method method(name);
                     const SmallLayer layer(24, 64, 64);
                     Calibration calibration(layer.cols);
                     if (method.needs_originals()) {
                       calibration.add(layer.input_view(), layer.input_view(), executor);
                     } else {
                       calibration.add(layer.input_view(), executor);
                     }
                     return as_floats(quantize_layer(layer.view(), parse_format("int4"), method,
                                                     &calibration, executor)
                                          .weight);
                   }});
  }
  out.push_back({"dequantize", [](Executor& executor) {
                   std::vector<float> y(kRows * kCols);
                   dequantize(make_matrix("mxfp4", 1), {y.data(), kRows, kCols}, executor);
                   return y;
                 }});
  out.push_back({"statistics", [](Executor& executor) {
                   const QuantizedStatistics found =
                       quantized_statistics(make_matrix("int4", 1), executor);
                   const std::vector<float> values = normal_values(1000, 1);
                   const ValueStatistics of_values = value_statistics(values, 1e-38F, executor);
                   return std::vector<float>{static_cast<float>(found.elements()),
                                             static_cast<float>(found.scales.count),
                                             static_cast<float>(of_values.count)};
                 }});
  out.push_back({"validate", [](Executor& executor) {
                   StoredLayer layer{"layer", {kRows, kCols}, make_matrix("nvfp4", 1), {}};
                   layer.weight.tensor.scale = 1;
                   const std::vector<float> values = {1, std::numeric_limits<float>::infinity()};
                   const std::size_t shape[] = {2};
                   return std::vector<float>{
                       static_cast<float>(validate(layer, false, executor).size()),
                       static_cast<float>(validate("values", shape, values, executor).size())};
                 }});
  return out;
}

TEST(ExecutorFaults, NoTasksAtOnceCountAsOne) {
  for (const Work& work : all_work()) {
    SCOPED_TRACE(work.name);
    SerialExecutor serial;
    const std::vector<float> expected = work.run(serial);
    for (const std::size_t said : {std::size_t{0}, ~std::size_t{0}}) {
      SayingExecutor executor(said);
      EXPECT_EQ(work.run(executor), expected) << said;
      EXPECT_NE(executor.calls, 0U);
    }
  }
}

TEST(ExecutorFaults, WorkspaceForNoTasksIsThatForOne) {
  SerialExecutor serial;
  const QuantizedLinear layer(make_matrix("int4", 1), {}, serial);
  EXPECT_EQ(layer.workspace_bytes(kM, 0), layer.workspace_bytes(kM, 1));
  const std::vector<QuantizedMatrix> experts = {make_matrix("int4", 1)};
  const GroupedLinear grouped(experts, {}, serial);
  EXPECT_EQ(grouped.workspace_bytes(kM, 0), grouped.workspace_bytes(kM, 1));
  EXPECT_EQ(grouped.summed_workspace_bytes(kM, 0), grouped.summed_workspace_bytes(kM, 1));
}

TEST(ExecutorFaults, WhatItThrowsReachesTheCaller) {
  for (const Work& work : all_work()) {
    SCOPED_TRACE(work.name);
    SayingExecutor counting(4);
    static_cast<void>(work.run(counting));
    // Every call of short works, some of those that make thousands.
    for (std::size_t call = 0; call < counting.calls; call += 1 + counting.calls / 20) {
      FailingExecutor failing(call);
      EXPECT_THROW(static_cast<void>(work.run(failing)), PoolIsDown) << "call " << call;
    }
  }
}

TEST(ExecutorFaults, LayersStayUsable) {
  SerialExecutor serial;
  const QuantizedLinear layer(make_matrix("int4", 1), {}, serial);
  const std::vector<float> x = normal_values(kM * kCols, 2);
  std::vector<float> y(kM * kRows);
  Workspace workspace;
  const auto run = [&](Executor& executor) {
    layer.run({x.data(), kM, kCols}, {y.data(), kM, kRows}, workspace, executor);
  };
  run(serial);
  const std::vector<float> expected = y;
  for (const std::size_t call : {0U, 1U}) {
    FailingExecutor failing(call);
    EXPECT_THROW(run(failing), PoolIsDown);
    run(serial);
    EXPECT_EQ(y, expected);
  }
}

/// A cache whose append failed holds what it held before, also where the new tokens had taken the
/// places of values that wait to become codes.
TEST(ExecutorFaults, NothingWasAppendedToACache) {
  constexpr std::size_t kHeads = 4;
  constexpr std::size_t kDim = 64;
  constexpr std::size_t kTokens = 150;
  constexpr std::size_t kWidth = kHeads * kDim;
  const std::vector<float> k = normal_values(kTokens * kWidth, 6);
  const std::vector<float> v = normal_values(kTokens * kWidth, 7);
  for (const ValueGroups groups : {ValueGroups::tokens, ValueGroups::head_dim}) {
    for (const std::size_t before : {0U, 20U, 32U, 50U}) {
      SerialExecutor serial;
      const auto append = [&](KvCache& cache, std::size_t begin, std::size_t end,
                              Executor& executor) {
        cache.append({&k[begin * kWidth], end - begin, kWidth},
                     {&v[begin * kWidth], end - begin, kWidth}, executor);
      };
      const auto attend = [&](const KvCache& cache) {
        Workspace workspace;
        std::vector<float> y(kWidth);
        cache.attend({k.data(), 1, kWidth}, {y.data(), 1, kWidth}, 0.125F, workspace, serial);
        return y;
      };
      const KvCacheOptions options{parse_format("int4"), parse_format("int4"), groups};
      KvCache expected(kHeads, kDim, kTokens, options);
      KvCache cache(kHeads, kDim, kTokens, options);
      if (before != 0) {
        append(expected, 0, before, serial);
        append(cache, 0, before, serial);
      }
      FailingExecutor failing(0);
      EXPECT_THROW(append(cache, before, kTokens, failing), PoolIsDown);
      EXPECT_EQ(cache.size(), before);
      if (before != 0) {
        EXPECT_EQ(attend(cache), attend(expected)) << before;
      }
      append(expected, before, kTokens, serial);
      append(cache, before, kTokens, serial);
      EXPECT_EQ(attend(cache), attend(expected)) << before;
    }
  }
}

TEST(ExecutorFaultsDeathTest, RunUncheckedEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  SerialExecutor serial;
  const QuantizedLinear layer(make_matrix("int4", 1), {}, serial);
  const std::vector<float> x = normal_values(kM * kCols, 2);
  std::vector<float> y(kM * kRows);
  Workspace workspace;
  workspace.reserve(layer.workspace_bytes(kM, 4));
  FailingExecutor failing(0);
  EXPECT_DEATH(
      layer.run_unchecked({x.data(), kM, kCols}, {y.data(), kM, kRows}, workspace, failing), "");
}

}  // namespace
}  // namespace nybble::test
