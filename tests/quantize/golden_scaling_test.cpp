// AWQ and SmoothQuant against the results of their own code.

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>

#include "nybble/format/registry.h"
#include "nybble/quantize/awq.h"
#include "nybble/quantize/clip_search.h"
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

/// AWQ's clip search alone: the same grid, loss and clipping. Its code judges on one token of
/// tokens / 512, here all count: the difference is what that sample is worth.
TEST(GoldenAwq, ClipSearch) {
  NYBBLE_GOLDEN_OR_SKIP(root, "quantizers");
  SerialExecutor serial;
  std::size_t compared = 0;
  for (const auto& folder : golden_problems(root, 140000)) {
    const GoldenProblem problem(folder);
    const std::vector<float> moment = problem.calibration.second_moment();
    const std::size_t k = problem.weight.shape[1];
    for (const std::string group : {"pc", "g128", "g64", "g32"}) {
      const std::string name = "awq.asym." + group + ".clip_only";
      if (!problem.results.contains(name) || !problem.results[name].contains("sqnr_test")) continue;
      ClipSearchOptions options;
      options.grid = 10;
      options.smallest = 0.55F;
      options.cut_ends = true;
      options.moment = {moment.data(), k, k};
      const QuantizedLayer layer{
          quantize_clip_search(problem.weight.view(), awq_format(group_of(name)), serial, options),
          {},
          {},
          0};
      EXPECT_NEAR(
          output_sqnr_db(problem.test_inputs.view(), problem.weight.view(), layer, {}, serial),
          problem.results[name]["sqnr_test"].get<double>(), 0.1)
          << problem.name << " " << name;
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

/// Corrected for the inputs that earlier, quantized layers give, at least as good as GPTAQ, which
/// does it column by column.
TEST(GoldenGptaq, ErrorCorrection) {
  NYBBLE_GOLDEN_OR_SKIP(root, "quantizers");
  SerialExecutor serial;
  const GoldenProblem problem(root / "syn_256x512");
  const GoldenMatrix inputs = read_golden(problem.folder / "Xq.npy");
  const GoldenMatrix test = read_golden(problem.folder / "Xq_test.npy");
  const MatrixView weight = problem.weight.view();
  Calibration calibration(inputs.shape[1]);
  calibration.add(inputs.view(), problem.inputs.view(), serial);
  const auto sqnr = [&](const char* spec, const char* method) {
    const QuantizedLayer layer =
        quantize_layer(weight, parse_format(spec), Method(method), &calibration, serial);
    const std::vector<float> ours = effective_weight(layer, serial);
    double signal = 0;
    double noise = 0;
    for (std::size_t t = 0; t < test.shape[0]; ++t) {
      for (std::size_t row = 0; row < weight.rows; ++row) {
        double y = 0;
        double y_ours = 0;
        for (std::size_t i = 0; i < weight.cols; ++i) {
          y += static_cast<double>(problem.test_inputs.view().at(t, i)) *
               static_cast<double>(weight.at(row, i));
          y_ours += static_cast<double>(test.view().at(t, i)) *
                    static_cast<double>(ours[row * weight.cols + i]);
        }
        signal += y * y;
        noise += (y - y_ours) * (y - y_ours);
      }
    }
    return 10 * std::log10(signal / noise);
  };
  for (const auto& [spec, name] :
       {std::pair{"int4:group=row,zero_point=true,scale=f32", "gptaq.asym.pc.act.a0.25"},
        std::pair{"int4:group=128,scale=f32", "gptaq.sym.g128.act.static.a0.25"}}) {
    const double reference = problem.results[name]["sqnr_test"].get<double>();
    EXPECT_GE(sqnr(spec, "qep+gptq"), reference) << name;
    // And it is the correction that helps, not only the better rounding.
    EXPECT_GT(sqnr(spec, "qep+gptq"), sqnr(spec, "gptq")) << name;
  }
}

}  // namespace
}  // namespace nybble::test
