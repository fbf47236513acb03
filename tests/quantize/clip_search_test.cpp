#include "nybble/quantize/clip_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nybble/format/registry.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/all_specs.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

constexpr std::size_t kRows = 6;
constexpr std::size_t kCols = 160;

struct ClipSearch : testing::Test {
  std::vector<float> x = heavy_tailed_values(kRows * kCols, 21);
  SerialExecutor executor;

  [[nodiscard]] MatrixView view() const { return {x.data(), kRows, kCols}; }

  /// Sum of importance * error^2 of one group, or of all of them.
  [[nodiscard]] double group_error(const QuantizedMatrix& q, std::size_t row, std::size_t group,
                                   std::span<const float> importance) const {
    double sum = 0;
    const std::size_t end = std::min(kCols, (group + 1) * q.group);
    for (std::size_t c = group * q.group; c < end; ++c) {
      const double error = static_cast<double>(q.value(row, c)) - view().at(row, c);
      sum += error * error * (importance.empty() ? 1.0 : static_cast<double>(importance[c]));
    }
    return sum;
  }
  [[nodiscard]] double error(const QuantizedMatrix& q, std::span<const float> importance) const {
    double sum = 0;
    for (std::size_t r = 0; r < q.rows; ++r) {
      for (std::size_t g = 0; g < q.groups; ++g) sum += group_error(q, r, g, importance);
    }
    return sum;
  }
};

/// Squares of normal numbers: what mean(x^2) of a calibration set looks like.
std::vector<float> channel_importance() {
  std::vector<float> out = heavy_tailed_values(kCols, 22);
  for (float& v : out) v *= v;
  return out;
}

TEST_F(ClipSearch, IsNeverWorseThanRoundToNearestInAnyGroup) {
  const std::vector<float> importance = channel_importance();
  for (const std::string& spec : all_specs()) {
    const AnyFormat format = parse_format(spec);
    // What double quantization does to the scales afterwards is not part of the search.
    if (format.info().double_quantized) continue;
    for (const std::span<const float> weights : {std::span<const float>(), std::span(importance)}) {
      ClipSearchOptions options;
      options.importance = weights;
      options.grid = 20;
      const QuantizedMatrix rtn = quantize_rtn(view(), format, executor);
      const QuantizedMatrix searched = quantize_clip_search(view(), format, executor, options);
      for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t g = 0; g < rtn.groups; ++g) {
          EXPECT_LE(group_error(searched, r, g, weights),
                    group_error(rtn, r, g, weights) * (1 + 1e-5) + 1e-30)
              << spec << " row " << r << " group " << g << (weights.empty() ? "" : " weighted");
        }
      }
    }
  }
}

TEST_F(ClipSearch, FindsSomethingWhereScalesAreFine) {
  for (const char* spec : {"int4", "int4:zero_point=true", "fp4", "nf4", "amxfp4", "nvfp4"}) {
    const AnyFormat format = parse_format(spec);
    const double rtn = error(quantize_rtn(view(), format, executor), {});
    const double searched = error(quantize_clip_search(view(), format, executor), {});
    EXPECT_LT(searched, rtn * 0.99) << spec;
  }
}

TEST_F(ClipSearch, ImportanceDecides) {
  const std::vector<float> importance = channel_importance();
  ClipSearchOptions weighted;
  weighted.importance = importance;
  for (const char* spec : {"int4", "int4:zero_point=true", "fp4", "nf4", "mxfp4", "amxfp4"}) {
    const AnyFormat format = parse_format(spec);
    const QuantizedMatrix with = quantize_clip_search(view(), format, executor, weighted);
    const QuantizedMatrix without = quantize_clip_search(view(), format, executor);
    EXPECT_LT(error(with, importance), error(without, importance)) << spec;
    EXPECT_LT(error(without, {}), error(with, {})) << spec;
  }
}

TEST_F(ClipSearch, ColumnsWithoutImportanceDoNotCount) {
  // Only the values at 0, 32, 64, ... matter: one a group, which some scale of the grid comes near.
  std::vector<float> importance(kCols, 0.0F);
  for (std::size_t c = 0; c < kCols; c += 32) importance[c] = 1;
  ClipSearchOptions options;
  options.importance = importance;
  const AnyFormat format = parse_format("int4");
  const double rtn = error(quantize_rtn(view(), format, executor), importance);
  const double searched =
      error(quantize_clip_search(view(), format, executor, options), importance);
  EXPECT_LT(searched, rtn * 0.25);
}

TEST_F(ClipSearch, SameBytesForAnyNumberOfTasks) {
  const AnyFormat format = parse_format("amxfp4");
  const QuantizedMatrix expected = quantize_clip_search(view(), format, executor);
  for (const std::size_t tasks : {2U, 5U}) {
    ThreadExecutor threads(tasks);
    const QuantizedMatrix got = quantize_clip_search(view(), format, threads);
    EXPECT_TRUE(got.codes == expected.codes && got.scales == expected.scales) << tasks;
  }
}

TEST_F(ClipSearch, BadOptions) {
  const AnyFormat format = parse_format("int4");
  const auto expect_bad = [&](ErrorCode code, const std::vector<std::string>& parts,
                              const ClipSearchOptions& options) {
    expect_error(code, parts, [&] { quantize_clip_search(view(), format, executor, options); });
  };
  ClipSearchOptions options;
  options.grid = 1;
  expect_bad(ErrorCode::bad_option, {"grid 1", "2 to 10000"}, options);
  for (const float smallest : {0.0F, -1.0F, 1.0F, std::numeric_limits<float>::quiet_NaN()}) {
    options = {};
    options.smallest = smallest;
    expect_bad(ErrorCode::bad_option, {"smallest", "between 0 and 1"}, options);
  }
  options = {};
  options.tensor_name = "layer.0";
  std::vector<float> importance(kCols - 1, 1.0F);
  options.importance = importance;
  expect_bad(ErrorCode::bad_shape, {"layer.0", "159", "160"}, options);
  for (const float bad :
       {-1.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    importance.assign(kCols, 1.0F);
    importance[77] = bad;
    options.importance = importance;
    expect_bad(ErrorCode::bad_value, {"layer.0", "importance[77]"}, options);
  }
  options = {};
  x[5] = std::numeric_limits<float>::infinity();
  expect_bad(ErrorCode::bad_value, {"matrix", "[0, 5]"}, options);
}

}  // namespace
}  // namespace nybble::test
