// AWQ and SmoothQuant against the results of their own code.

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "nybble/format/registry.h"
#include "nybble/quantize/awq.h"
#include "nybble/quantize/method.h"
#include "nybble/quantize/smoothquant.h"
#include "src/quantize/channel_search.h"
#include "tests/quantize/golden_problem.h"
#include "tests/support/shared.h"

namespace nybble::test {
namespace {

/// The published grid finds the published ratio, and given the published scales all codes, scales
/// and zero points are the reference's.
TEST(GoldenAwq, RatiosAndCodes) {
  NYBBLE_GOLDEN_OR_SKIP(root, "quantizers");
  SerialExecutor serial;
  std::size_t compared = 0;
  for (const auto& folder : golden_problems(root, 140000)) {
    const GoldenProblem problem(folder);
    for (const std::string group : {"pc", "g128", "g64", "g32"}) {
      const std::string name = "awq.asym." + group + ".scale_only";
      if (!std::filesystem::exists(folder / name / "chan_scale.npy")) continue;
      SCOPED_TRACE(problem.name + " " + name);
      const AnyFormat format = awq_format(group_of(name));
      AwqOptions options;
      options.form = AwqOptions::Form::plain;
      options.refine = false;
      options.search_scales = false;
      options.rows = 0;
      const AwqResult found =
          search_awq_scale(problem.weight.view(), format, problem.calibration, serial, options);
      EXPECT_NEAR(found.exponent, problem.results[name]["awq_ratio"].get<double>(), 1e-9);

      const GoldenMatrix scale = read_golden(folder / name / "chan_scale.npy");
      for (std::size_t i = 0; i < scale.values.size(); ++i) {
        // f32 against f64 of a power and a mean.
        EXPECT_NEAR(found.scale[i], scale.values[i], 1e-5F * scale.values[i]) << "channel " << i;
      }
      std::vector<float> scaled(problem.weight.values);
      const std::size_t k = scale.values.size();
      for (std::size_t i = 0; i < scaled.size(); ++i) scaled[i] *= scale.values[i % k];
      const QuantizedMatrix ours =
          quantize_rtn({scaled.data(), scaled.size() / k, k}, format, serial);
      const GoldenMatrix codes = read_golden(folder / name / "codes.npy");
      const GoldenMatrix scales = read_golden(folder / name / "scales.npy");
      const GoldenMatrix zeros = read_golden(folder / name / "zeros.npy");
      for (std::size_t row = 0; row < codes.shape[0]; ++row) {
        for (std::size_t g = 0; g < ours.groups; ++g) {
          EXPECT_EQ(ours.scale(row, g).positive, scales.view().at(row, g)) << row << " " << g;
          EXPECT_EQ(ours.scale(row, g).zero, zeros.view().at(row, g)) << row << " " << g;
        }
        for (std::size_t col = 0; col < k; ++col) {
          ASSERT_EQ(static_cast<float>(ours.code(row, col)), codes.view().at(row, col))
              << row << " " << col;
        }
      }
      ++compared;
    }
  }
  EXPECT_GE(compared, 8U);
}

/// The published scales (the reference stores their reciprocals in the norm's weight), and the
/// output error of its W4A4.
TEST(GoldenSmoothQuant, ScalesAndError) {
  NYBBLE_GOLDEN_OR_SKIP(root, "quantizers");
  SerialExecutor serial;
  std::size_t compared = 0;
  for (const auto& folder : golden_problems(root, 140000)) {
    const GoldenProblem problem(folder);
    const std::vector<float> max_weight = column_max_abs(problem.weight.view());
    for (const double alpha : {0.5, 0.85}) {
      const std::string name = alpha == 0.5 ? "smoothquant.a0.5.w4a4" : "smoothquant.a0.85.w4a4";
      if (!std::filesystem::exists(folder / name / "ln_weight.npy")) continue;
      SCOPED_TRACE(problem.name + " " + name);
      const GoldenMatrix reciprocals = read_golden(folder / name / "ln_weight.npy");
      const std::vector<float> scale =
          smoothquant_scale(problem.calibration.max_abs(), max_weight, alpha);
      for (std::size_t i = 0; i < scale.size(); ++i) {
        EXPECT_NEAR(1 / scale[i], reciprocals.values[i], 2e-6F * reciprocals.values[i]) << i;
      }
      const AnyFormat per_row = parse_format("int4:group=row,scale=f32");
      const Method method(alpha == 0.5 ? "smoothquant:alpha=0.5+rtn"
                                       : "smoothquant:alpha=0.85+rtn");
      const QuantizedLayer layer = quantize_layer(problem.weight.view(), per_row, method,
                                                  &problem.calibration, serial, {"layer", per_row});
      const double db =
          output_sqnr_db(problem.test_inputs.view(), problem.weight.view(), layer, per_row, serial);
      EXPECT_NEAR(db, problem.results[name]["sqnr_test"].get<double>(), 0.02);
      ++compared;
    }
  }
  EXPECT_GE(compared, 8U);
}

}  // namespace
}  // namespace nybble::test
