// GroupedLinear against QuantizedLinear, expert by expert on gathered rows: the same bits.

#include "nybble/linear/grouped_linear.h"

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
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

constexpr Path kPaths[] = {Path::a8, Path::a16, Path::a32, Path::a4};
constexpr std::size_t kExperts = 5;
constexpr std::size_t kRows = 72;   // five panels, the last one half empty
constexpr std::size_t kCols = 136;  // not a whole number of groups

using Routes = std::vector<std::uint32_t>;

std::vector<QuantizedMatrix> make_experts(const std::string& format, std::size_t rows = kRows,
                                          std::size_t cols = kCols) {
  SerialExecutor executor;
  std::vector<QuantizedMatrix> out;
  for (std::size_t e = 0; e < kExperts; ++e) {
    std::vector<float> values = normal_values(rows * cols, 100 + e);
    // Of different sizes, so that no expert's tensor scale does for another.
    for (float& value : values) value *= static_cast<float>(e + 1);
    out.push_back(quantize_rtn({values.data(), rows, cols}, parse_format(format), executor));
  }
  return out;
}

Routes random_routes(std::size_t count, std::uint64_t seed, std::size_t experts = kExperts) {
  Random random(seed);
  Routes out(count);
  for (auto& expert : out) expert = static_cast<std::uint32_t>(random.index(experts));
  return out;
}

GroupedLinear make_grouped(const std::vector<QuantizedMatrix>& experts,
                           const LinearOptions& options = {}, const std::vector<float>& bias = {}) {
  SerialExecutor executor;
  if (bias.empty()) return {experts, options, executor};
  return {experts, options, executor, {bias.data(), experts.size(), experts[0].rows}};
}

/// `x_rows` rows of x for these routes.
std::vector<float> run(const GroupedLinear& grouped, const std::vector<float>& x,
                       const Routes& routes, Workspace& workspace, Executor& executor) {
  std::vector<float> y(routes.size() * grouped.rows(), std::numeric_limits<float>::quiet_NaN());
  grouped.run({x.data(), x.size() / grouped.cols(), grouped.cols()}, routes,
              {y.data(), routes.size(), grouped.rows()}, workspace, executor);
  return y;
}

std::vector<float> run(const GroupedLinear& grouped, const std::vector<float>& x,
                       const Routes& routes) {
  Workspace workspace;
  SerialExecutor executor;
  return run(grouped, x, routes, workspace, executor);
}

/// The loop that GroupedLinear replaces: gather, one layer, scatter. Batches are the same, so bits
/// are, on all paths.
class Reference {
 public:
  Reference(const std::vector<QuantizedMatrix>& experts, const LinearOptions& options,
            const std::vector<float>& bias = {}) {
    SerialExecutor executor;
    for (std::size_t e = 0; e < experts.size(); ++e) {
      const std::size_t rows = experts[e].rows;
      Transforms transforms;
      if (!bias.empty()) transforms.bias.assign(&bias[e * rows], &bias[e * rows] + rows);
      layers_.emplace_back(experts[e], options, executor, std::move(transforms));
    }
  }

  [[nodiscard]] std::vector<float> run(const std::vector<float>& x, const Routes& routes) const {
    const std::size_t n = layers_[0].rows(), k = layers_[0].cols();
    const std::size_t shared = routes.size() * k / x.size();
    std::vector<float> y(routes.size() * n);
    SerialExecutor executor;
    Workspace workspace;
    for (std::size_t e = 0; e < layers_.size(); ++e) {
      std::vector<float> gathered;
      for (std::size_t r = 0; r < routes.size(); ++r) {
        const float* row = &x[r / shared * k];
        if (routes[r] == e) gathered.insert(gathered.end(), row, row + k);
      }
      const std::size_t m = gathered.size() / k;
      if (m == 0) continue;
      std::vector<float> out(m * n);
      layers_[e].run({gathered.data(), m, k}, {out.data(), m, n}, workspace, executor);
      const float* from = out.data();
      for (std::size_t r = 0; r < routes.size(); ++r) {
        if (routes[r] != e) continue;
        std::copy_n(from, n, &y[r * n]);
        from += n;
      }
    }
    return y;
  }
  [[nodiscard]] const QuantizedLinear& layer(std::size_t e) const { return layers_[e]; }

 private:
  std::vector<QuantizedLinear> layers_;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<std::string> supported_targets() {
  std::vector<std::string> out;
  for (const TargetInfo& target : list_targets()) {
    if (target.supported) out.push_back(target.name);
  }
  return out;
}

TEST(GroupedLinear, SameBitsAsOneLayerPerExpert) {
  const std::vector<float> bias = normal_values(kExperts * kRows, 2);
  for (const char* format : {"int4", "int4:zero_point=true", "int4:group=row", "nf4", "mxfp4",
                             "nvfp4", "amxfp4", "amxfp4:tensor_scale=true"}) {
    const std::vector<QuantizedMatrix> experts = make_experts(format);
    for (const Path path : kPaths) {
      for (const std::string& target : supported_targets()) {
        const LinearOptions options{.path = path, .target = target};
        const Reference reference(experts, options, bias);
        const GroupedLinear grouped = make_grouped(experts, options, bias);
        EXPECT_EQ(grouped.kernel(), reference.layer(0).kernel());
        for (const std::size_t m : {1U, 2U, 23U}) {
          for (std::size_t top_k = 1; top_k <= 4; ++top_k) {
            SCOPED_TRACE(std::string(format) + " " + path_name(path) + " " + target +
                         " M = " + std::to_string(m) + " top " + std::to_string(top_k));
            const std::vector<float> x = normal_values(m * kCols, m);
            const Routes routes = random_routes(m * top_k, m + top_k);
            ASSERT_TRUE(same_bits(run(grouped, x, routes), reference.run(x, routes)));
            const std::vector<float> own = normal_values(routes.size() * kCols, m);
            ASSERT_TRUE(same_bits(run(grouped, own, routes), reference.run(own, routes)));
          }
        }
      }
    }
  }
}

TEST(GroupedLinear, RowsDoNotDependOnTheirBatch) {
  const std::vector<QuantizedMatrix> experts = make_experts("mxfp4");
  for (const Path path : {Path::a8, Path::a32}) {
    const Reference reference(experts, {.path = path});
    const std::vector<float> x = normal_values(40 * kCols, 1);
    const Routes routes = random_routes(80, 3);
    const std::vector<float> y = run(make_grouped(experts, {.path = path}), x, routes);
    SerialExecutor executor;
    Workspace workspace;
    for (std::size_t r = 0; r < routes.size(); ++r) {
      std::vector<float> alone(kRows);
      reference.layer(routes[r]).run({&x[r / 2 * kCols], 1, kCols}, {alone.data(), 1, kRows},
                                     workspace, executor);
      EXPECT_TRUE(same_bits(alone, {&y[r * kRows], &y[r * kRows] + kRows})) << "route " << r;
    }
  }
}

TEST(GroupedLinear, UnevenRoutings) {
  const std::vector<QuantizedMatrix> experts = make_experts("mxfp4");
  const Reference reference(experts, {});
  const GroupedLinear grouped = make_grouped(experts);
  Routes mostly_last(400, kExperts - 1);
  mostly_last[7] = 0;
  ThreadExecutor threads(3);
  // More rows than a kernel's block for one expert; the first, middle and last expert alone.
  for (const Routes& routes : {Routes(400, 0), Routes(6, 2), Routes(1, kExperts - 1), mostly_last,
                               random_routes(60, 5, 2), Routes{3, 1}, Routes{0, 1, 2, 3, 4}}) {
    const std::vector<float> x = normal_values(routes.size() * kCols, 6);
    const std::vector<float> expected = reference.run(x, routes);
    Workspace workspace;
    EXPECT_TRUE(same_bits(run(grouped, x, routes), expected));
    EXPECT_TRUE(same_bits(run(grouped, x, routes, workspace, threads), expected));
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

TEST(GroupedLinear, SameBitsOnAnyNumberOfThreads) {
  const std::vector<float> bias = normal_values(kExperts * kRows, 2);
  for (const Path path : kPaths) {
    const GroupedLinear grouped = make_grouped(make_experts("nvfp4"), {.path = path}, bias);
    for (const std::size_t m : {1U, 3U, 50U}) {
      const std::vector<float> x = normal_values(m * kCols, m);
      const Routes routes = random_routes(4 * m, m);
      const std::vector<float> weights = normal_values(4 * m, m + 1);
      const std::vector<float> expected = run(grouped, x, routes);
      const auto summed = [&](Workspace& workspace, Executor& executor) {
        std::vector<float> y(m * kRows);
        grouped.run_summed({x.data(), m, kCols}, routes, weights, {y.data(), m, kRows}, workspace,
                           executor);
        return y;
      };
      SerialExecutor serial;
      Workspace of_serial;
      const std::vector<float> expected_sum = summed(of_serial, serial);
      for (const std::size_t threads : {1U, 2U, 3U, 8U, 1000U}) {
        SCOPED_TRACE(std::string(path_name(path)) + " M = " + std::to_string(m) + ", " +
                     std::to_string(threads) + " threads");
        ReversedExecutor reversed(threads);
        ThreadExecutor several(std::min<std::size_t>(threads, 16));
        for (Executor* executor :
             {static_cast<Executor*>(&reversed), static_cast<Executor*>(&several)}) {
          Workspace workspace;
          EXPECT_TRUE(same_bits(run(grouped, x, routes, workspace, *executor), expected));
          EXPECT_TRUE(same_bits(summed(workspace, *executor), expected_sum));
        }
      }
    }
  }
}

/// Counts how many tasks write each element of y.
class CountingExecutor final : public Executor {
 public:
  explicit CountingExecutor(std::vector<float>& y) : writes(y.size()), y_(y) {}
  [[nodiscard]] std::size_t concurrency() const noexcept override { return 3; }
  void parallel_for(std::size_t count, TaskRef task) override {
    for (std::size_t t = 0; t < count; ++t) {
      std::fill(y_.begin(), y_.end(), std::numeric_limits<float>::quiet_NaN());
      task(t);
      for (std::size_t i = 0; i < y_.size(); ++i) writes[i] += y_[i] == y_[i] ? 1 : 0;
    }
  }
  std::vector<int> writes;

 private:
  std::vector<float>& y_;
};

TEST(GroupedLinear, ComputesEveryOutputOnce) {
  const GroupedLinear grouped = make_grouped(make_experts("mxfp4"));
  for (const std::size_t count : {1U, 2U, 9U, 40U}) {
    const std::vector<float> x = normal_values(count * kCols, 1);
    std::vector<float> y(count * kRows);
    CountingExecutor executor(y);
    Workspace workspace;
    grouped.run({x.data(), count, kCols}, random_routes(count, count), {y.data(), count, kRows},
                workspace, executor);
    EXPECT_EQ(executor.writes, std::vector<int>(y.size(), 1));
  }
}

TEST(GroupedLinear, SumsWeightedRoutes) {
  constexpr std::size_t kBatch = 9, kTop = 3;
  const std::vector<float> bias = normal_values(kExperts * kRows, 2);
  const GroupedLinear grouped = make_grouped(make_experts("int4"), {}, bias);
  Routes routes = random_routes(kBatch * kTop, 8);
  std::vector<float> weights = normal_values(routes.size(), 9);
  routes[1] = kNoExpert;
  weights[1] = std::numeric_limits<float>::quiet_NaN();  // not even multiplied with
  std::fill_n(&routes[2 * kTop], kTop, kNoExpert);       // a row that gets nothing
  ThreadExecutor executor(2);
  // One row of x for every row of y, and one for every route.
  for (const std::size_t x_rows : {kBatch, kBatch * kTop}) {
    const std::vector<float> x = normal_values(x_rows * kCols, 10);
    const std::vector<float> terms = run(grouped, x, routes);
    std::vector<float> expected(kBatch * kRows);
    for (std::size_t r = 0; r < routes.size(); ++r) {
      for (std::size_t n = 0; n < kRows && routes[r] != kNoExpert; ++n) {
        const float term = weights[r] * terms[r * kRows + n];
        expected[r / kTop * kRows + n] += term;
      }
    }
    std::vector<float> y(kBatch * kRows, std::numeric_limits<float>::quiet_NaN());
    Workspace workspace;
    grouped.run_summed({x.data(), x_rows, kCols}, routes, weights, {y.data(), kBatch, kRows},
                       workspace, executor);
    EXPECT_TRUE(same_bits(y, expected)) << x_rows << " rows of x";
  }
}

TEST(GroupedLinear, RoutesToNoExpertGiveZeros) {
  const std::vector<QuantizedMatrix> experts = make_experts("mxfp4");
  const GroupedLinear grouped = make_grouped(experts, {}, normal_values(kExperts * kRows, 2));
  Routes routes = random_routes(20, 8);
  const std::vector<float> x = normal_values(10 * kCols, 1);
  std::vector<float> expected = run(grouped, x, routes);
  ThreadExecutor executor(3);
  for (std::size_t gone = 1; gone <= routes.size(); ++gone) {
    const std::size_t r = gone * 7 % routes.size();
    routes[r] = kNoExpert;
    std::fill_n(&expected[r * kRows], kRows, 0.0F);
    Workspace workspace;
    EXPECT_TRUE(same_bits(run(grouped, x, routes, workspace, executor), expected)) << gone;
  }
}

TEST(GroupedLinear, StridesLeaveWhatLiesBetweenRowsAlone) {
  constexpr std::size_t kBatch = 5, kStrideX = kCols + 3, kStrideY = kRows + 7;
  constexpr float kUntouched = 12345.0F;
  const std::vector<float> bias = normal_values(kExperts * kRows, 2);
  const std::vector<float> x = normal_values(kBatch * kCols, 1);
  std::vector<float> wide_x((kBatch - 1) * kStrideX + kCols,
                            std::numeric_limits<float>::quiet_NaN());
  for (std::size_t m = 0; m < kBatch; ++m) {
    std::copy_n(&x[m * kCols], kCols, &wide_x[m * kStrideX]);
  }
  Routes routes = random_routes(2 * kBatch, 3);
  routes[4] = kNoExpert;
  ThreadExecutor executor(3);
  for (const Path path : kPaths) {
    const GroupedLinear grouped = make_grouped(make_experts("amxfp4"), {.path = path}, bias);
    const std::vector<float> expected = run(grouped, x, routes);
    std::vector<float> y((routes.size() - 1) * kStrideY + kRows, kUntouched);
    Workspace workspace;
    grouped.run({wide_x.data(), kBatch, kCols, kStrideX}, routes,
                {y.data(), routes.size(), kRows, kStrideY}, workspace, executor);
    std::vector<float> rows;
    for (std::size_t i = 0; i < y.size(); ++i) {
      if (i % kStrideY < kRows) {
        rows.push_back(y[i]);
      } else {
        ASSERT_EQ(y[i], kUntouched) << "wrote past row " << i / kStrideY;
      }
    }
    EXPECT_TRUE(same_bits(rows, expected)) << path_name(path);
  }
}

TEST(GroupedLinear, WorkspaceIsGrownOnceAndToTheStatedSize) {
  const GroupedLinear grouped = make_grouped(make_experts("int4"));
  const std::vector<float> x = normal_values(30 * kCols, 1);
  const Routes routes = random_routes(60, 3);
  const std::vector<float> weights(60, 0.5F);
  std::vector<float> y(30 * kRows);
  ThreadExecutor executor(3);
  Workspace workspace;
  run(grouped, x, routes, workspace, executor);
  EXPECT_EQ(workspace.size(), grouped.workspace_bytes(60, 3));
  const auto sum = [&] {
    grouped.run_summed({x.data(), 30, kCols}, routes, weights, {y.data(), 30, kRows}, workspace,
                       executor);
  };
  sum();
  EXPECT_EQ(workspace.size(), grouped.summed_workspace_bytes(60, 3));
  const std::byte* data = workspace.data();
  sum();
  run(grouped, {x.begin(), x.begin() + kCols}, {0, 1}, workspace, executor);
  EXPECT_EQ(workspace.data(), data);
}

TEST(GroupedLinear, AddsUpItsExperts) {
  const std::vector<QuantizedMatrix> experts = make_experts("mxfp4");
  GroupedLinear moved = make_grouped(experts);
  const GroupedLinear grouped = std::move(moved);
  EXPECT_EQ(grouped.experts(), kExperts);
  EXPECT_EQ(grouped.rows(), kRows);
  EXPECT_EQ(grouped.cols(), kCols);
  EXPECT_EQ(grouped.packed_bytes(), kExperts * Reference(experts, {}).layer(0).packed_bytes());
  EXPECT_NE(grouped.explain().find(grouped.kernel()), std::string::npos);
  EXPECT_NE(grouped.explain().find("experts   5"), std::string::npos);
}

TEST(GroupedLinear, RefusesExpertsThatDiffer) {
  const auto refuse = [](ErrorCode code, const std::vector<std::string>& parts,
                         const std::vector<QuantizedMatrix>& experts,
                         const LinearOptions& options = {}) {
    expect_error(code, parts, [&] { make_grouped(experts, options); });
  };
  refuse(ErrorCode::bad_shape, {"no experts"}, {});
  std::vector<QuantizedMatrix> experts = make_experts("int4");
  experts[3] = make_experts("int4:zero_point=true")[3];
  refuse(ErrorCode::bad_option, {"expert 3", "zero_point"}, experts);
  experts[3] = make_experts("int4", kRows + 1)[3];
  refuse(ErrorCode::bad_shape, {"expert 3", "73 x 136", "72 x 136"}, experts);
  experts[3] = make_experts("int4", kRows, kCols - 1)[3];
  refuse(ErrorCode::bad_shape, {"expert 3", "72 x 135", "72 x 136"}, experts);
  for (const std::size_t e : {0U, 4U}) {
    experts = make_experts("int4");
    experts[e].codes.pop_back();
    refuse(ErrorCode::bad_shape, {"codes"}, experts);
  }
  experts = make_experts("int4");
  refuse(ErrorCode::bad_option, {"mxfp4", "a4"}, experts, {.activations = parse_format("mxfp4")});
  refuse(ErrorCode::bad_option, {"a8", "a16"}, experts, {.path = Path::a16, .scale_per_row = true});
  refuse(ErrorCode::bad_option, {"'pentium'"}, experts, {.target = "pentium"});

  const std::vector<float> bias(kExperts * kRows);
  SerialExecutor executor;
  for (const MatrixView view :
       {MatrixView(bias.data(), kExperts - 1, kRows), MatrixView(bias.data(), kExperts, kRows - 1),
        MatrixView(nullptr, kExperts, kRows), MatrixView(bias.data(), 0, 0)}) {
    expect_error(ErrorCode::bad_shape, {"bias"},
                 [&] { const GroupedLinear grouped(experts, {}, executor, view); });
  }
}

TEST(GroupedLinear, RunRefusesWhatDoesNotFit) {
  const GroupedLinear grouped = make_grouped(make_experts("int4"));
  std::vector<float> memory(20 * kCols + 20 * kRows, 7.0F);
  const std::vector<float> before = memory;
  float* x = memory.data();
  float* y = x + 20 * kCols;
  const std::vector<float> weights(6, 1.0F);
  Workspace workspace;
  SerialExecutor executor;
  const auto refuse_sum = [&](const std::vector<std::string>& parts, MatrixView from,
                              const Routes& routes, const std::vector<float>& by,
                              MutableMatrixView to) {
    expect_error(ErrorCode::bad_shape, parts,
                 [&] { grouped.run_summed(from, routes, by, to, workspace, executor); });
  };
  const auto refuse = [&](const std::vector<std::string>& parts, MatrixView from,
                          const Routes& routes, MutableMatrixView to) {
    expect_error(ErrorCode::bad_shape, parts,
                 [&] { grouped.run(from, routes, to, workspace, executor); });
    refuse_sum(parts, from, routes, std::vector<float>(routes.size()), to);
  };
  const MatrixView good_x(x, 3, kCols);
  const MutableMatrixView good_y(y, 6, kRows);
  const Routes good(6, 1);
  refuse({"135", "136"}, {x, 3, kCols - 1}, good, good_y);
  refuse({"71", "72"}, good_x, good, {y, 6, kRows - 1});
  refuse({"0 routes"}, good_x, {}, good_y);
  refuse({"x is 4", "6 routes"}, {x, 4, kCols}, good, good_y);
  refuse({"x is 12", "6 routes"}, {x, 12, kCols}, good, good_y);
  refuse({"y 4", "6 routes"}, good_x, good, {y, 4, kRows});
  refuse({"y 12", "6 routes"}, good_x, good, {y, 12, kRows});
  refuse({"x", "0 x 136"}, {x, 0, kCols}, good, good_y);
  refuse({"x", "null"}, {nullptr, 3, kCols}, good, good_y);
  refuse({"y", "null"}, good_x, good, {nullptr, 6, kRows});
  refuse({"y", "stride"}, good_x, good, {y, 6, kRows, kRows - 1});
  refuse({"expert 5", "route 2"}, good_x, {0, 1, 5, 3, 4, 0}, good_y);
  refuse({"expert 4294967294", "route 5"}, good_x, {0, 1, 2, 3, 4, kNoExpert - 1}, good_y);
  refuse({"overlap"}, good_x, good, {x + 3 * kCols - 1, 6, kRows});
  refuse({"overlap"}, {y + 6 * kRows - 1, 3, kCols}, good, good_y);
  // Rows that divide the routes are not enough without a sum.
  expect_error(ErrorCode::bad_shape, {"y", "3 rows", "6"}, [&] {
    grouped.run(good_x, good, {y, 3, kRows}, workspace, executor);
  });
  refuse_sum({"5 weights", "6 routes"}, good_x, good, {weights.begin(), weights.end() - 1}, good_y);
  EXPECT_EQ(memory, before);
  EXPECT_EQ(workspace.size(), 0U);
}

}  // namespace
}  // namespace nybble::test
