#include "nybble/quantize/gptq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/quantize/method.h"
#include "src/quantize/hessian.h"
#include "src/quantize/refine.h"
#include "tests/quantize/layer_problem.h"
#include "tests/support/all_specs.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

double error_of(const SmallLayer& layer, const QuantizedMatrix& matrix) {
  SerialExecutor serial;
  std::vector<float> decoded(layer.weight.size());
  dequantize(matrix, {decoded.data(), layer.rows, layer.cols}, serial);
  const std::vector<float> moment = layer.calibration.second_moment();
  return output_error(layer.view(), {decoded.data(), layer.rows, layer.cols},
                      {moment.data(), layer.cols, layer.cols}, serial);
}

TEST(Gptq, BeatsRoundToNearestInEveryFormat) {
  const SmallLayer layer;
  SerialExecutor serial;
  for (const std::string& spec : all_specs()) {
    SCOPED_TRACE(spec);
    const AnyFormat format = parse_format(spec);
    GptqOptions options;
    options.damping = Damping{};
    const GptqResult result =
        quantize_gptq(layer.view(), format, layer.calibration, serial, options);
    result.matrix.check();
    // At least 1.5 dB of the output's error, which is far from chance for 4608 weights.
    EXPECT_LT(error_of(layer, result.matrix),
              0.7 * error_of(layer, quantize_rtn(layer.view(), format, serial)));
    // What the report says is what the matrix has.
    const std::vector<float> moment = layer.calibration.second_moment();
    const double whole =
        quadratic_form(layer.view(), {moment.data(), layer.cols, layer.cols}, serial);
    EXPECT_NEAR(result.report.error, error_of(layer, result.matrix) / whole,
                1e-5 * result.report.error);
  }
}

/// Each refinement alone, on the damped objective that it promises not to make worse.
TEST(Gptq, DescentAndRefitNeverMakeARowWorse) {
  const SmallLayer layer;
  SerialExecutor serial;
  const std::vector<float> moment = layer.calibration.second_moment();
  const MatrixView h(moment.data(), layer.cols, layer.cols);
  for (const std::string& spec : all_specs()) {
    SCOPED_TRACE(spec);
    const AnyFormat format = parse_format(spec);
    if (format.info().double_quantized) continue;  // scales stay, rows are not independent
    const OrderedHessian hessian =
        order_hessian(h, {}, ColumnOrder::activation, 32, serial, "layer");
    const QuantizedMatrix start = quantize_rtn(layer.view(), format, serial);
    RowCodes codes(format, layer.rows, layer.cols, start.tensor);
    for (std::size_t row = 0; row < layer.rows; ++row) {
      for (std::size_t g = 0; g < codes.groups; ++g) {
        ScaleChoice& choice = codes.choice(row, g);
        choice.scale = start.scale(row, g);
        const bool reciprocal = format.encode_table().reciprocal;
        for (std::size_t side = 0; side < 2; ++side) {
          const float scale = side == 0 ? choice.scale.positive : choice.scale.negative;
          choice = with_scale(choice, format.info(), start.tensor, reciprocal, side, scale);
        }
        choice.scale = start.scale(row, g);
      }
      for (std::size_t col = 0; col < layer.cols; ++col) {
        codes.codes[row * layer.cols + col] = start.code(row, col);
      }
    }
    const auto row_errors = [&] {
      std::vector<float> errors(layer.rows * layer.cols);
      ordered_errors(layer.view(), hessian, codes, {errors.data(), layer.rows, layer.cols}, serial);
      std::vector<double> out;
      for (std::size_t row = 0; row < layer.rows; ++row) {
        out.push_back(quadratic_form({&errors[row * layer.cols], 1, layer.cols},
                                     {hessian.values.data(), layer.cols, layer.cols}, serial));
      }
      return out;
    };
    const auto expect_no_worse = [&](const std::function<void()>& change, double least_gain) {
      const std::vector<double> before = row_errors();
      change();
      const std::vector<double> after = row_errors();
      double sum_before = 0;
      double sum_after = 0;
      for (std::size_t row = 0; row < layer.rows; ++row) {
        EXPECT_LE(after[row], before[row] * (1 + 1e-5)) << row;
        sum_before += before[row];
        sum_after += after[row];
      }
      EXPECT_LE(sum_after, sum_before * least_gain);
    };
    Refiner refiner(layer.view(), hessian, codes, serial);
    expect_no_worse([&] { refiner.descend(3); }, 0.9);
    // Scales of one byte are 6 % and more apart, which leaves little to fit.
    const bool coarse = scale_bytes(format.info().scale_type) == 1;
    expect_no_worse([&] { refiner.refit_scales(); }, coarse ? 1.0 + 1e-9 : 0.9999);
    // The residual that it kept is still that of the codes.
    expect_no_worse([&] { refiner.descend(3); }, 1);
    to_matrix(codes, serial).check();
  }
}

TEST(Gptq, SameBytesForAnyNumberOfThreads) {
  const SmallLayer layer(70, 160, 300);
  SerialExecutor serial;
  ThreadExecutor executor(5);
  for (const char* spec : {"int4:group=64,zero_point=true", "amxfp4", "nvfp4"}) {
    const QuantizedMatrix a =
        quantize_gptq(layer.view(), parse_format(spec), layer.calibration, serial).matrix;
    const QuantizedMatrix b =
        quantize_gptq(layer.view(), parse_format(spec), layer.calibration, executor).matrix;
    EXPECT_EQ(a.codes, b.codes);
    EXPECT_EQ(a.scales, b.scales);
    EXPECT_EQ(a.zero_points, b.zero_points);
  }
}

TEST(Gptq, RowsAreIndependent) {
  const SmallLayer layer(150, 64);
  SerialExecutor serial;
  GptqOptions options;
  options.damping = Damping{Damping::Kind::diagonal, 0.05F};
  const AnyFormat format = parse_format("int4:group=32");
  const QuantizedMatrix all =
      quantize_gptq(layer.view(), format, layer.calibration, serial, options).matrix;
  const QuantizedMatrix some =
      quantize_gptq({layer.view().row(100), 50, 64}, format, layer.calibration, serial, options)
          .matrix;
  for (std::size_t row = 0; row < 50; ++row) {
    for (std::size_t col = 0; col < 64; ++col) {
      ASSERT_EQ(some.code(row, col), all.code(100 + row, col)) << row << " " << col;
    }
  }
}

/// Every order, and groups that depend on it: through QuantizedLinear the result is that of the
/// effective weights, to a32's rounding.
TEST(Gptq, EveryOrderRuns) {
  const SmallLayer layer(40, 100, 400);
  SerialExecutor serial;
  for (const char* method :
       {"gptq:order=natural", "gptq:order=group_aware", "gptq", "gptq:static_groups=false",
        "gptq:order=natural,static_groups=false", "gptq:order=group_aware,static_groups=false",
        "gptq:order=natural,static_groups=false,stale_groups=true"}) {
    SCOPED_TRACE(method);
    const QuantizedLayer rtn =
        quantize_layer(layer.view(), parse_format("int4"), Method("rtn"), nullptr, serial);
    const QuantizedLayer ours = quantize_layer(layer.view(), parse_format("int4"), Method(method),
                                               &layer.calibration, serial);
    EXPECT_EQ(ours.transforms.permutation.source.empty(),
              std::string(method) != "gptq:static_groups=false");
    const std::vector<std::uint32_t>& source = ours.transforms.permutation.source;
    for (std::size_t i = 1; i < source.size(); ++i) {
      if (i % 32 == 0) continue;
      EXPECT_LT(source[i - 1], source[i]) << "inside the group of " << i;
    }
    EXPECT_GT(output_sqnr_db(layer.test_view(), layer.view(), ours, {}, serial),
              output_sqnr_db(layer.test_view(), layer.view(), rtn, {}, serial) + 1.5);
  }
}

TEST(Gptq, DeadChannelsAndFewTokens) {
  // 40 tokens for 96 channels, three of them always 0.
  SmallLayer layer(20, 96, 40);
  for (std::size_t t = 0; t < 40; ++t) {
    for (const std::size_t dead : {0U, 50U, 95U}) layer.inputs[t * 96 + dead] = 0;
  }
  layer.calibration = Calibration(96);
  SerialExecutor serial;
  layer.calibration.add(layer.input_view(), serial);
  const GptqResult result =
      quantize_gptq(layer.view(), parse_format("int4"), layer.calibration, serial);
  EXPECT_EQ(result.report.dead, 3U);
  EXPECT_TRUE(std::isfinite(result.report.error));
  GptqOptions zero;
  zero.zero_dead_channels = true;
  zero.descent_passes = 0;
  const QuantizedMatrix zeroed =
      quantize_gptq(layer.view(), parse_format("int4"), layer.calibration, serial, zero).matrix;
  for (std::size_t row = 0; row < 20; ++row) EXPECT_EQ(zeroed.value(row, 50), 0);
}

TEST(Gptq, DampingIsRaisedAndReported) {
  const SmallLayer layer(20, 96, 40);
  SerialExecutor serial;
  GptqOptions options;
  options.damping = Damping{Damping::Kind::mean, 0};  // rank 40 of 96
  const GptqReport report =
      quantize_gptq(layer.view(), parse_format("int4"), layer.calibration, serial, options).report;
  EXPECT_GT(report.damping_raised, 0);
  EXPECT_GT(report.damping.amount, 0);
}

TEST(Gptq, RefusesWhatItCannotUse) {
  SmallLayer layer(8, 32, 64);
  SerialExecutor serial;
  const AnyFormat format = parse_format("int4");
  const auto code_of = [&](const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return static_cast<int>(error.code());
    }
    return 0;
  };
  const auto run = [&](const Calibration& calibration, const GptqOptions& options) {
    return code_of([&] { quantize_gptq(layer.view(), format, calibration, serial, options); });
  };
  EXPECT_EQ(run(Calibration(31), {}), static_cast<int>(ErrorCode::bad_shape));
  EXPECT_EQ(run(Calibration(32), {}), static_cast<int>(ErrorCode::bad_value));
  GptqOptions bad;
  bad.damping = Damping{Damping::Kind::mean, -1};
  EXPECT_EQ(run(layer.calibration, bad), static_cast<int>(ErrorCode::bad_option));
  bad = {};
  bad.descent_passes = -1;
  EXPECT_EQ(run(layer.calibration, bad), static_cast<int>(ErrorCode::bad_option));
  GptqOptions dynamic;
  dynamic.static_groups = false;
  EXPECT_EQ(code_of([&] {
              quantize_gptq(layer.view(), parse_format("nf4:double=true"), layer.calibration,
                            serial, dynamic);
            }),
            static_cast<int>(ErrorCode::bad_option));
  layer.weight[40] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(run(layer.calibration, {}), static_cast<int>(ErrorCode::bad_value));
  std::vector<float> zeros(64 * 32);
  Calibration nothing(32);
  nothing.add({zeros.data(), 64, 32}, serial);
  layer.weight[40] = 0;
  EXPECT_EQ(run(nothing, {}), static_cast<int>(ErrorCode::bad_value));
}

}  // namespace
}  // namespace nybble::test
