#include "nybble/quantize/method.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "nybble/error.h"
#include "nybble/linear/linear.h"
#include "nybble/quantize/awq.h"
#include "nybble/quantize/clip_search.h"
#include "nybble/quantize/smoothquant.h"
#include "tests/quantize/layer_problem.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

TEST(Method, SpecsParseBackToThemselves) {
  for (const char* spec :
       {"rtn", "clip", "clip:grid=40", "clip:loss=plain", "gptq", "gptq:damp=0.05",
        "gptq:order=group_aware,damp=0.5,damp_of=diagonal,refine=cd", "awq+gptq",
        "awq:form=duo,grid=10+rtn", "smoothquant:alpha=0.5+hadamard:block=32+gptq:refine=none"}) {
    EXPECT_EQ(Method(Method(spec).spec()).spec(), Method(spec).spec()) << spec;
  }
  EXPECT_EQ(Method("gptq:refine=full").spec(), "gptq");
  EXPECT_EQ(Method("awq:form=best+gptq:damp=auto").spec(), "awq+gptq");
  // A step that rounds is added where there is none.
  EXPECT_EQ(Method("awq").spec(), "awq+clip:loss=group");
  EXPECT_EQ(Method("smoothquant:alpha=0.5").spec(), "smoothquant:alpha=0.5+rtn");
  EXPECT_EQ(Method("smoothquant+hadamard").spec(), "smoothquant+hadamard+rtn");
  EXPECT_TRUE(Method("awq+rtn").calibrated());
  EXPECT_FALSE(Method("hadamard+rtn").calibrated());
  EXPECT_FALSE(Method("clip:loss=plain").calibrated());
}

TEST(Method, BadSpecsSayWhatIsAllowed) {
  const auto message = [](const char* spec) {
    try {
      const Method method(spec);
      return std::string("accepted: ") + method.spec();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_option);
      return std::string(error.what());
    }
  };
  const auto expect_part = [&](const char* spec, const char* part) {
    EXPECT_NE(message(spec).find(part), std::string::npos) << spec << ": " << message(spec);
  };
  expect_part("", "expected one of rtn, clip, gptq");
  expect_part("gptq2", "unknown step 'gptq2'");
  expect_part("gptq+", "unknown step ''");
  expect_part("gptq+awq", "rounds and must come last");
  expect_part("gptq+rtn", "rounds and must come last");
  expect_part("gptq:damp=-1", "expected a number from 0 to 1000");
  expect_part("gptq:damp=nan", "expected a number");
  expect_part("gptq:damp=0.1x", "expected a number");
  expect_part("clip:grid=1.5", "expected an integer");
  expect_part("gptq:size=3", "unknown option 'size'");
  expect_part("gptq:damp", "is not key=value");
  expect_part("gptq:damp=1,damp=2", "given twice");
  expect_part("hadamard:block=1+rtn", "expected");
}

/// What QuantizedLinear computes from a layer is what its effective weights say, transforms and
/// all, and with quantized activations what output_sqnr_db says.
TEST(Method, QuantizedLinearComputesTheEffectiveWeights) {
  const SmallLayer layer(48, 96, 300);
  ThreadExecutor executor(2);
  for (const char* method :
       {"rtn", "clip", "gptq", "awq:always=true+gptq", "smoothquant+rtn", "hadamard+gptq",
        "smoothquant+hadamard:block=16+gptq", "hadamard:block=48+rtn", "gptq:static_groups=false",
        "awq:always=true+gptq:static_groups=false"}) {
    for (const char* spec : {"int4", "int4:zero_point=true", "amxfp4", "mxfp4", "nvfp4"}) {
      SCOPED_TRACE(std::string(method) + " " + spec);
      const QuantizedLayer quantized = quantize_layer(layer.view(), parse_format(spec),
                                                      Method(method), &layer.calibration, executor);
      const std::vector<float> effective = effective_weight(quantized, executor);
      const QuantizedLinear linear(quantized.weight, {.path = Path::a32}, executor,
                                   quantized.transforms);
      Workspace workspace;
      const MatrixView x = layer.test_view();
      std::vector<float> y(x.rows * layer.rows);
      linear.run(x, {y.data(), x.rows, layer.rows}, workspace, executor);
      double noise = 0;
      double signal = 0;
      double difference = 0;
      for (std::size_t m = 0; m < x.rows; ++m) {
        for (std::size_t n = 0; n < layer.rows; ++n) {
          double expected = 0;
          double exact = 0;
          double magnitude = 0;
          for (std::size_t i = 0; i < layer.cols; ++i) {
            const auto input = static_cast<double>(x.at(m, i));
            const double product = input * static_cast<double>(effective[n * layer.cols + i]);
            expected += product;
            magnitude += std::fabs(product);
            exact += input * static_cast<double>(layer.view().at(n, i));
          }
          const auto actual = static_cast<double>(y[m * layer.rows + n]);
          difference = std::max(difference, std::fabs(actual - expected) / magnitude);
          noise += (expected - exact) * (expected - exact);
          signal += exact * exact;
        }
      }
      // K products, at most 8 roundings of each factor by the transforms.
      EXPECT_LT(difference, (96 + 16) * 0x1p-23);
      EXPECT_NEAR(output_sqnr_db(x, layer.view(), quantized, {}, executor),
                  10 * std::log10(signal / noise), 1e-3);
    }
  }
}

TEST(Method, QuantizedActivationsAreThoseOfA4) {
  const SmallLayer layer(48, 96, 300);
  SerialExecutor serial;
  for (const char* spec : {"amxfp4", "mxfp4", "nvfp4", "int4"}) {
    SCOPED_TRACE(spec);
    const AnyFormat format = parse_format(spec);
    const QuantizedLayer quantized = quantize_layer(layer.view(), format, Method("smoothquant+rtn"),
                                                    &layer.calibration, serial, {"layer", format});
    const QuantizedLinear linear(quantized.weight, {.path = Path::a4}, serial,
                                 quantized.transforms);
    Workspace workspace;
    const MatrixView x = layer.test_view();
    std::vector<float> y(x.rows * layer.rows);
    linear.run(x, {y.data(), x.rows, layer.rows}, workspace, serial);
    double noise = 0;
    double signal = 0;
    for (std::size_t m = 0; m < x.rows; ++m) {
      for (std::size_t n = 0; n < layer.rows; ++n) {
        double exact = 0;
        for (std::size_t i = 0; i < layer.cols; ++i) {
          exact += static_cast<double>(x.at(m, i)) * static_cast<double>(layer.view().at(n, i));
        }
        const double error = static_cast<double>(y[m * layer.rows + n]) - exact;
        noise += error * error;
        signal += exact * exact;
      }
    }
    EXPECT_NEAR(output_sqnr_db(x, layer.view(), quantized, format, serial),
                10 * std::log10(signal / noise), 1e-2);
  }
}

TEST(Method, ClipWeighsByTheMomentsDiagonal) {
  const SmallLayer layer;
  SerialExecutor serial;
  const std::vector<float> moment = layer.calibration.second_moment();
  std::vector<float> importance;
  for (std::size_t i = 0; i < layer.cols; ++i) {
    importance.push_back(moment[i * layer.cols + i] / static_cast<float>(layer.tokens));
  }
  ClipSearchOptions options;
  options.importance = importance;
  const QuantizedMatrix expected =
      quantize_clip_search(layer.view(), parse_format("mxfp4"), serial, options);
  const QuantizedLayer ours = quantize_layer(layer.view(), parse_format("mxfp4"), Method("clip"),
                                             &layer.calibration, serial);
  EXPECT_EQ(ours.weight.codes, expected.codes);
  EXPECT_EQ(ours.weight.scales, expected.scales);
}

/// The group's own share of the output decides, for every layout of scales: never worse in it than
/// round to nearest or the diagonal's choice.
TEST(Method, ClipByTheGroupsOutput) {
  const SmallLayer layer;
  SerialExecutor serial;
  const std::vector<float> moment = layer.calibration.second_moment();
  const auto group_error = [&](const QuantizedLayer& result) {
    const std::vector<float> ours = effective_weight(result, serial);
    double sum = 0;
    for (std::size_t row = 0; row < layer.rows; ++row) {
      for (std::size_t i = 0; i < layer.cols; ++i) {
        for (std::size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j) {
          sum += static_cast<double>(layer.view().at(row, i) - ours[row * layer.cols + i]) *
                 static_cast<double>(layer.view().at(row, j) - ours[row * layer.cols + j]) *
                 static_cast<double>(moment[i * layer.cols + j]);
        }
      }
    }
    return sum;
  };
  for (const char* spec : {"int4", "int4:zero_point=true", "amxfp4", "mxfp4", "nf4:block=32"}) {
    SCOPED_TRACE(spec);
    const auto run = [&](const char* method) {
      return group_error(quantize_layer(layer.view(), parse_format(spec), Method(method),
                                        &layer.calibration, serial));
    };
    EXPECT_LE(run("clip:loss=group"), run("rtn") * (1 + 1e-5));
    EXPECT_LE(run("clip:loss=group,cut_ends=true"), run("rtn") * (1 + 1e-5));
    // Where both signs share their candidates: sign-split formats choose sides apart.
    if (std::string(spec) != "amxfp4") {
      EXPECT_LE(run("clip:loss=group"), run("clip") * (1 + 1e-5));
    }
  }
}

/// Outlier channels are what AWQ is for; where there are none, it must do no harm.
TEST(Method, AwqHelpsWithOutliersAndNeverHurtsMuch) {
  const SmallLayer layer;
  SerialExecutor serial;
  const auto sqnr = [&](const char* method) {
    return output_sqnr_db(layer.test_view(), layer.view(),
                          quantize_layer(layer.view(), parse_format("int4:group=row"),
                                         Method(method), &layer.calibration, serial),
                          {}, serial);
  };
  EXPECT_GT(sqnr("awq+rtn"), sqnr("rtn") + 2);
  EXPECT_GT(sqnr("awq+gptq"), sqnr("gptq") - 0.1);
  const AwqResult found =
      search_awq_scale(layer.view(), parse_format("int4:group=row"), layer.calibration, serial);
  EXPECT_LT(found.error, found.error_before);
  EXPECT_GT(found.scale[5], found.scale[6]);  // channel 5 is 15 times as large
}

/// By itself GPTQ scales channels where that gains a decibel; nothing else about it does.
TEST(Method, GptqAloneScalesOutlierChannels) {
  SerialExecutor serial;
  const auto run = [&](const SmallLayer& layer, const char* method) {
    return quantize_layer(layer.view(), parse_format("int4:group=row"), Method(method),
                          &layer.calibration, serial);
  };
  const SmallLayer outliers;
  const QuantizedLayer scaled = run(outliers, "gptq");
  const QuantizedLayer plain = run(outliers, "gptq:channel_scale=false");
  EXPECT_EQ(scaled.transforms.channel_scale.scale.size(), outliers.cols);
  for (const char* method : {"gptq:channel_scale=false", "gptq:scales=range", "gptq:refine=cd"}) {
    EXPECT_TRUE(run(outliers, method).transforms.channel_scale.scale.empty()) << method;
  }
  const auto sqnr = [&](const QuantizedLayer& result) {
    return output_sqnr_db(outliers.test_view(), outliers.view(), result, {}, serial);
  };
  EXPECT_GT(sqnr(scaled), sqnr(plain) + 0.5);
  // White inputs: no channel deserves more than another.
  SmallLayer white;
  white.calibration = Calibration(white.cols);
  const std::vector<float> inputs = normal_values(512 * white.cols, 9);
  white.calibration.add({inputs.data(), 512, white.cols}, serial);
  EXPECT_TRUE(run(white, "gptq").transforms.channel_scale.scale.empty());
}

TEST(Method, SmoothQuantHelpsFourBitActivations) {
  const SmallLayer layer;
  SerialExecutor serial;
  const AnyFormat format = parse_format("int4:group=row");
  const auto sqnr = [&](const char* method) {
    return output_sqnr_db(layer.test_view(), layer.view(),
                          quantize_layer(layer.view(), format, Method(method), &layer.calibration,
                                         serial, {"layer", format}),
                          format, serial);
  };
  EXPECT_GT(sqnr("smoothquant+rtn"), sqnr("rtn") + 2);
  EXPECT_GE(sqnr("smoothquant+rtn"), sqnr("smoothquant:alpha=0.85+rtn") - 0.1);
  // The published formula.
  const std::vector<float> input = {4, 1};
  const std::vector<float> weight = {1, 0.25F};
  const std::vector<float> scale = smoothquant_scale(input, weight, 0.5);
  EXPECT_FLOAT_EQ(scale[0], 2);
  EXPECT_FLOAT_EQ(scale[1], 2);
}

TEST(Method, ErrorsNameTheLayer) {
  const SmallLayer layer(8, 36, 64);
  SerialExecutor serial;
  const auto message = [&](const char* method, const Calibration* calibration) {
    try {
      quantize_layer(layer.view(), parse_format("int4"), Method(method), calibration, serial,
                     {"block 7 down", {}});
      return std::string("no error");
    } catch (const Error& error) {
      return std::string(error.what());
    }
  };
  EXPECT_NE(message("gptq", nullptr).find("block 7 down: method 'gptq' needs calibration"),
            std::string::npos);
  EXPECT_NE(message("hadamard:block=8+rtn", nullptr).find("12, 20, 28, ...) that divides 36"),
            std::string::npos);
  EXPECT_NE(message("hadamard:block=4+awq:always=true+rtn", &layer.calibration)
                .find("block 7 down: channels cannot be scaled after a rotation"),
            std::string::npos);
  EXPECT_EQ(message("hadamard+rtn", nullptr), "no error");
}

}  // namespace
}  // namespace nybble::test
