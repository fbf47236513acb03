#include "nybble/quantize/omniquant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>

#include "nybble/format/block_format.h"
#include "nybble/format/registry.h"
#include "nybble/quantize/gptq.h"
#include "nybble/quantize/method.h"
#include "src/quantize/layer_loss.h"
#include "src/quantize/straight_through.h"
#include "tests/io/temporary_folder.h"
#include "tests/quantize/golden_problem.h"
#include "tests/support/random.h"
#include "tests/support/shared.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

/// The derivative of a function of one variable at 0.
double slope(const std::function<double(double)>& function, double step) {
  return (function(step) - function(-step)) / (2 * step);
}

/// One group rounded at some point, and what straight-through gradients take it for near that
/// point: residuals of rounding are constants, scales follow the range's ends. In double.
class Surrogate {
 public:
  Surrogate(const AnyFormat& format, std::vector<float> x, ClipLogs clip, TensorScale tensor)
      : format_(format), x_(std::move(x)), clip_(clip) {
    GroupRange range{x_[0], x_[0]};
    for (const float value : x_) {
      range = {std::max(range.max, value), std::min(range.min, value)};
    }
    range_ = clipped(range, clip);
    choice_ = choose_clipped(format, range, clip, false, tensor);
    const EncodeTable& table = format.encode_table();
    for (const float value : x_) {
      const std::uint8_t code = encode_value(table, choice_, value);
      rounded_.push_back(format.decode(code, choice_.scale, tensor));
      const float level = table.level[code];
      const float z =
          value / ((value < 0 ? choice_.scale.negative : choice_.scale.positive) * tensor.scale) +
          choice_.scale.zero;
      const auto [least, most] = std::minmax_element(table.level.begin(), table.level.end());
      beyond_.push_back((z > *most && level == *most) || (z < *least && level == *least));
    }
    tensor_ = tensor;
  }

  /// Element i after log|x_j| grew by logs[j], the clips by high and low.
  [[nodiscard]] double value(std::size_t i, const std::vector<double>& logs, double high,
                             double low) const {
    const auto x = [&](std::size_t j) {
      return static_cast<double>(x_[j]) * std::exp(logs.empty() ? 0 : logs[j]);
    };
    double top = x(0);
    double bottom = x(0);
    for (std::size_t j = 1; j < x_.size(); ++j) {
      top = std::max(top, x(j));
      bottom = std::min(bottom, x(j));
    }
    top *= std::exp(static_cast<double>(clip_.high) + high);
    bottom *= std::exp(static_cast<double>(clip_.low) + low);
    const auto top_was = static_cast<double>(range_.max);
    const auto bottom_was = static_cast<double>(range_.min);
    const auto rounded = static_cast<double>(rounded_[i]);
    const auto x_was = static_cast<double>(x_[i]);
    double grown = 0;
    switch (format_.info().layout) {
      case ScaleLayout::symmetric:
        grown = std::max(top, -bottom) / std::max(top_was, -bottom_was);
        break;
      case ScaleLayout::sign_split:
        grown = x_was < 0 ? bottom / bottom_was : top / top_was;
        break;
      case ScaleLayout::zero_point:
        if (beyond_[i]) return rounded + (x_was > 0 ? top - top_was : bottom - bottom_was);
        grown = (top - bottom) / (top_was - bottom_was);
        break;
    }
    return beyond_[i] ? rounded * grown : x(i) + (rounded - x_was) * grown;
  }

  [[nodiscard]] std::size_t size() const { return x_.size(); }
  [[nodiscard]] long beyond() const { return std::count(beyond_.begin(), beyond_.end(), true); }
  [[nodiscard]] const std::vector<float>& rounded() const { return rounded_; }

  /// What the library says for a gradient by the rounded values.
  ClipLogs gradient(const std::vector<float>& by_rounded, float* x_logs) const {
    std::vector<float> errors;
    for (std::size_t i = 0; i < x_.size(); ++i) errors.push_back(rounded_[i] - x_[i]);
    return straight_through({&format_.encode_table(), choice_, tensor_, range_, x_.data(),
                             errors.data(), by_rounded.data(), x_.size()},
                            x_logs);
  }

 private:
  const AnyFormat& format_;
  std::vector<float> x_;
  ClipLogs clip_;
  TensorScale tensor_;
  GroupRange range_;
  ScaleChoice choice_;
  std::vector<float> rounded_;
  std::vector<bool> beyond_;
};

TEST(StraightThrough, IsTheSlopeOfTheSmoothPart) {
  for (const char* spec : {"int4", "int4:zero_point=true", "nf4", "mxfp4", "mxfp4:rule=ceil",
                           "nvfp4", "amxfp4", "amxfp4:tensor_scale=true"}) {
    const AnyFormat format = parse_format(spec);
    long beyond = 0;
    for (std::uint64_t seed = 1; seed <= 6; ++seed) {
      SCOPED_TRACE(spec + std::string(" seed ") + std::to_string(seed));
      std::vector<float> x = normal_values(32, seed);
      // Which end is the farther one must not always be the same.
      if (seed % 2 == 0) std::transform(x.begin(), x.end(), x.begin(), std::negate<>());
      TensorScale tensor;
      if (format.info().tensor_scale) tensor = format.tensor_scale(4);
      const Surrogate group(format, x, {-0.4F, -0.25F}, tensor);
      beyond += group.beyond();
      const std::vector<float> slopes = normal_values(32, seed + 100);
      const auto loss = [&](const std::vector<double>& logs, double high, double low) {
        double sum = 0;
        for (std::size_t i = 0; i < group.size(); ++i) {
          const double q = group.value(i, logs, high, low);
          sum += static_cast<double>(slopes[i]) * q + q * q / 2;
        }
        return sum;
      };
      std::vector<float> by_rounded;
      for (std::size_t i = 0; i < x.size(); ++i) {
        by_rounded.push_back(slopes[i] + group.rounded()[i]);
      }
      std::vector<float> x_logs(x.size(), 0.5F);  // it is added to
      const ClipLogs got = group.gradient(by_rounded, x_logs.data());
      constexpr double kStep = 1e-6;
      // f32 sums of 32 terms of size 1 against differences of f64; f16 zero-point scales put the
      // outermost levels up to 2^-11 off the range's ends.
      constexpr double kTolerance = 2e-3;
      EXPECT_NEAR(got.high, slope([&](double d) { return loss({}, d, 0); }, kStep), kTolerance);
      EXPECT_NEAR(got.low, slope([&](double d) { return loss({}, 0, d); }, kStep), kTolerance);
      for (std::size_t j = 0; j < x.size(); ++j) {
        const double expected = slope(
            [&](double d) {
              std::vector<double> logs(x.size());
              logs[j] = d;
              return loss(logs, 0, 0);
            },
            kStep);
        EXPECT_NEAR(x_logs[j] - 0.5F, expected, kTolerance) << "element " << j;
      }
    }
    // Without values beyond the outermost levels half of this would be untested; ceil has none.
    if (std::string(spec) != "mxfp4:rule=ceil") {
      EXPECT_GT(beyond, 6) << spec;
    }
  }
}

TEST(StraightThrough, ClipOfAChoiceMakesItAgain) {
  for (const char* spec : {"int4:scale=f32", "int4:zero_point=true,scale=f32", "nf4", "mxfp4",
                           "nvfp4", "amxfp4:scale=f32"}) {
    const AnyFormat format = parse_format(spec);
    TensorScale tensor;
    if (format.info().tensor_scale) tensor = format.tensor_scale(40);
    const GroupRange range{3.1F, -2.3F};
    for (const float shrink : {1.0F, 0.8F, 0.5F, 1.15F}) {
      const ScaleChoice choice = format.choose(range, tensor, shrink);
      const ScaleChoice again =
          choose_clipped(format, range, clip_of(format, range, choice, tensor), false, tensor);
      EXPECT_NEAR(again.scale.positive, choice.scale.positive, 1e-5F * choice.scale.positive)
          << spec << " " << shrink;
      EXPECT_NEAR(again.scale.negative, choice.scale.negative, 1e-5F * choice.scale.negative)
          << spec << " " << shrink;
      EXPECT_EQ(again.scale.zero, choice.scale.zero) << spec << " " << shrink;
    }
  }
}

/// Minimises (a - 3)^2 + 100 (b + 1)^2, whose slopes differ a hundredfold.
TEST(StraightThrough, AdamConverges) {
  Adam adam(0.02F);
  AdamMoments moments[2];
  float a = 0;
  float b = 0;
  for (int step = 0; step < 2000; ++step) {
    adam.next_step();
    a += adam.change(moments[0], 2 * (a - 3));
    b += adam.change(moments[1], 200 * (b + 1));
    if (step == 0) {
      // The first step is the rate, whatever the slope.
      EXPECT_NEAR(a, 0.02F, 1e-6F);
      EXPECT_NEAR(b, -0.02F, 1e-6F);
    }
  }
  EXPECT_NEAR(a, 3, 1e-2F);
  EXPECT_NEAR(b, -1, 1e-2F);
}

constexpr std::size_t kTokens = 192;
constexpr std::size_t kRows = 24;
constexpr std::size_t kCols = 96;

/// A layer with channels that are much larger than others, and one that is always 0.
struct OmniQuant : testing::Test {
  static constexpr std::size_t kDead = 50;
  SerialExecutor serial;
  std::vector<float> weight = normal_values(kRows * kCols, 31);
  std::vector<float> inputs = normal_values(kTokens * kCols, 32);
  Calibration calibration{kCols};

  OmniQuant() {
    for (float& value : weight) value *= 0.05F;
    for (std::size_t row = 0; row < kTokens; ++row) {
      float* x = &inputs[row * kCols];
      for (std::size_t i = 1; i < kCols; ++i) x[i] += 0.6F * x[i - 1];
      for (std::size_t i = 7; i < kCols; i += 12) x[i] *= 8;
      x[kDead] = 0;
    }
    calibration.add(x(), serial);
  }

  [[nodiscard]] MatrixView x() const { return {inputs.data(), kTokens, kCols}; }
  [[nodiscard]] MatrixView w() const { return {weight.data(), kRows, kCols}; }
  [[nodiscard]] QuantizedLayer quantize(const std::string& method, const std::string& format,
                                        const std::optional<AnyFormat>& activations = {}) {
    return quantize_layer(w(), parse_format(format), Method(method), &calibration, serial,
                          {"layer", activations});
  }
  [[nodiscard]] double db(const QuantizedLayer& layer,
                          const std::optional<AnyFormat>& activations = {}) {
    return output_sqnr_db(x(), w(), layer, activations, serial);
  }
  /// Relative, over all tokens.
  [[nodiscard]] double error_of(const QuantizedMatrix& matrix) {
    std::vector<float> decoded(kRows * kCols);
    dequantize(matrix, {decoded.data(), kRows, kCols}, serial);
    const std::vector<float> moment = calibration.second_moment();
    const std::vector<float> zeros(kRows * kCols);
    const MatrixView h(moment.data(), kCols, kCols);
    return output_error(w(), {decoded.data(), kRows, kCols}, h, serial) /
           output_error(w(), {zeros.data(), kRows, kCols}, h, serial);
  }
};

/// By the rounded weights a loss is a quadratic function: central differences are exact.
void expect_slopes_by_weights(LayerLoss& loss, const std::vector<float>& rounded,
                              const std::vector<float>& scale) {
  std::vector<float> gradient(rounded.size());
  std::vector<float> ignored(gradient.size());
  std::vector<float> ignored_scale(scale.size());
  const auto evaluate = [&](const std::vector<float>& at, std::vector<float>& out) {
    return loss.evaluate({at.data(), kRows, kCols}, scale, {out.data(), kRows, kCols},
                         ignored_scale);
  };
  evaluate(rounded, gradient);
  float largest = 0;
  for (const float value : gradient) largest = std::max(largest, std::fabs(value));
  for (std::size_t i = 0; i < rounded.size(); i += 61) {
    const auto at = [&](double d) {
      std::vector<float> moved(rounded);
      moved[i] += static_cast<float>(d);
      return evaluate(moved, ignored);
    };
    EXPECT_NEAR(gradient[i], slope(at, 0x1p-5), 2e-3 * static_cast<double>(largest)) << i;
  }
}

TEST_F(OmniQuant, MomentLossSlopes) {
  std::vector<float> scale;
  Random random(3);
  for (std::size_t i = 0; i < kCols; ++i) scale.push_back(std::exp(0.5F * random.normal()));
  std::vector<float> rounded(weight);
  for (std::size_t i = 0; i < rounded.size(); ++i) {
    rounded[i] = rounded[i] * scale[i % kCols] + 0.02F * random.normal();
  }
  const auto loss = make_moment_loss(w(), calibration.second_moment(), serial);
  expect_slopes_by_weights(*loss, rounded, scale);

  std::vector<float> gradient(rounded.size());
  std::vector<float> by_scale(kCols);
  const auto evaluate = [&](const std::vector<float>& at, std::vector<float>& out) {
    return loss->evaluate({rounded.data(), kRows, kCols}, at, {gradient.data(), kRows, kCols}, out);
  };
  evaluate(scale, by_scale);
  float largest = 0;
  for (const float value : by_scale) largest = std::max(largest, std::fabs(value));
  for (std::size_t i = 0; i < kCols; i += 5) {
    const auto at = [&](double d) {
      std::vector<float> moved(scale);
      moved[i] *= std::exp(static_cast<float>(d));
      std::vector<float> ignored(kCols);
      return evaluate(moved, ignored);
    };
    EXPECT_NEAR(by_scale[i], slope(at, 0x1p-7), 3e-3 * static_cast<double>(largest)) << i;
  }
}

/// By the channel scales through the rounding of the inputs: every token's groups are surrogates.
TEST_F(OmniQuant, SampleLossSlopes) {
  Random random(4);
  std::vector<float> scale;
  for (std::size_t i = 0; i < kCols; ++i) scale.push_back(std::exp(0.5F * random.normal()));
  std::vector<float> rounded(weight);
  for (std::size_t i = 0; i < rounded.size(); ++i) {
    rounded[i] = rounded[i] * scale[i % kCols] + 0.02F * random.normal();
  }
  constexpr std::size_t kSome = 20;
  const MatrixView some(inputs.data(), kSome, kCols);
  for (const char* spec :
       {"int4:zero_point=true,scale=f32,group=row", "int4", "mxfp4", "amxfp4:scale=f32"}) {
    SCOPED_TRACE(spec);
    const AnyFormat format = parse_format(spec);
    const auto loss = make_sample_loss(w(), some, format, serial);
    expect_slopes_by_weights(*loss, rounded, scale);

    const std::size_t group = format.info().group == 0 ? kCols : format.info().group;
    std::vector<Surrogate> surrogates;
    std::vector<double> outputs;
    for (std::size_t m = 0; m < kSome; ++m) {
      for (std::size_t begin = 0; begin < kCols; begin += group) {
        std::vector<float> values;
        for (std::size_t i = begin; i < std::min(kCols, begin + group); ++i) {
          values.push_back(some.at(m, i) * (1 / scale[i]));
        }
        surrogates.emplace_back(format, values, ClipLogs{}, TensorScale{});
      }
      for (std::size_t n = 0; n < kRows; ++n) {
        double y = 0;
        for (std::size_t i = 0; i < kCols; ++i) {
          y += static_cast<double>(some.at(m, i)) * static_cast<double>(w().at(n, i));
        }
        outputs.push_back(y);
      }
    }
    const std::size_t groups = (kCols + group - 1) / group;
    /// The loss after channel `channel`'s scale grew by exp(d).
    const auto naive = [&](std::size_t channel, double d) {
      double sum = 0;
      for (std::size_t m = 0; m < kSome; ++m) {
        std::vector<double> a;
        for (std::size_t g = 0; g < groups; ++g) {
          const Surrogate& surrogate = surrogates[m * groups + g];
          std::vector<double> logs(surrogate.size());
          if (channel / group == g) logs[channel % group] = -d;
          for (std::size_t i = 0; i < surrogate.size(); ++i) {
            a.push_back(surrogate.value(i, logs, 0, 0));
          }
        }
        for (std::size_t n = 0; n < kRows; ++n) {
          double y = -outputs[m * kRows + n];
          for (std::size_t i = 0; i < kCols; ++i) {
            y += a[i] * static_cast<double>(rounded[n * kCols + i]);
          }
          sum += y * y;
        }
      }
      return sum;
    };
    std::vector<float> gradient(rounded.size());
    std::vector<float> by_scale(kCols);
    const double value = loss->evaluate({rounded.data(), kRows, kCols}, scale,
                                        {gradient.data(), kRows, kCols}, by_scale);
    EXPECT_NEAR(value, naive(0, 0), 1e-4 * value);
    float largest = 0;
    for (const float v : by_scale) largest = std::max(largest, std::fabs(v));
    for (const std::size_t i : {0U, 7U, 33U, 61U, 80U, 95U}) {
      EXPECT_NEAR(by_scale[i], slope([&](double d) { return naive(i, d); }, 1e-6),
                  1e-3 * static_cast<double>(largest))
          << i;
    }
  }
}

/// Two losses are one: what rows are trained on, and the layer's.
TEST_F(OmniQuant, RowLossesAddUpToTheLayers) {
  const AnyFormat int4 = parse_format("int4");
  const std::vector<float> scale = outlier_values(kCols, 9);
  std::vector<float> positive;
  for (const float value : scale) positive.push_back(0.2F + std::fabs(value));
  std::vector<float> scaled(weight);
  for (std::size_t i = 0; i < scaled.size(); ++i) scaled[i] *= positive[i % kCols];
  const MatrixView view(scaled.data(), kRows, kCols);
  const auto by_moment = make_moment_loss(w(), calibration.second_moment(), serial);
  const auto by_sample = make_sample_loss(w(), x(), int4, serial);
  for (LayerLoss* loss : {by_moment.get(), by_sample.get()}) {
    std::vector<float> gradient(scaled.size());
    std::vector<float> by_scale(kCols);
    const auto layer_loss = [&](const RowCodes& codes) {
      std::vector<float> rounded;
      for (std::size_t row = 0; row < kRows; ++row) {
        for (std::size_t i = 0; i < kCols; ++i) rounded.push_back(codes.value(row, i));
      }
      return loss->evaluate({rounded.data(), kRows, kCols}, positive,
                            {gradient.data(), kRows, kCols}, by_scale);
    };
    const RowLoss row_loss = loss->at(view, positive);
    // Up to a constant: the difference between two roundings.
    const RowCodes one = round_rows(view, int4, {}, serial);
    const RowCodes other = round_rows(view, int4, calibrated_search(nullptr), serial);
    double difference = 0;
    for (const double value : row_losses(view, row_loss, one, serial)) difference += value;
    for (const double value : row_losses(view, row_loss, other, serial)) difference -= value;
    const double whole = layer_loss(one);
    EXPECT_NEAR(difference, whole - layer_loss(other), 1e-3 * whole);
    EXPECT_GT(std::fabs(difference), 1e-2 * whole);
  }
}

/// A loss that is least where everything is half as large: the clips must follow the linear term
/// far into the range.
TEST_F(OmniQuant, RowTrainingFollowsTheLinearTerm) {
  RowLoss loss{std::vector<float>(kCols * kCols), weight};
  for (std::size_t i = 0; i < kCols; ++i) loss.moment[i * kCols + i] = 1;
  for (float& value : loss.linear) value *= 0.5F;
  for (const char* spec : {"int4", "int4:zero_point=true", "amxfp4:scale=f16"}) {
    RowCodes codes = round_rows(w(), parse_format(spec), {}, serial);
    const std::vector<double> before = row_losses(w(), loss, codes, serial);
    train_clips(w(), loss, {.steps = 200, .rate = 0.01F, .patience = 200}, codes, serial);
    const std::vector<double> after = row_losses(w(), loss, codes, serial);
    double size = 0;
    for (const float value : weight)
      size += static_cast<double>(value) * static_cast<double>(value);
    // The least that any numbers reach is -size / 4.
    EXPECT_GT(std::accumulate(before.begin(), before.end(), 0.0), -0.02 * size) << spec;
    EXPECT_LT(std::accumulate(after.begin(), after.end(), 0.0), -0.12 * size) << spec;
    for (std::size_t row = 0; row < kRows; ++row) EXPECT_LT(after[row], before[row]) << spec << row;
  }
}

constexpr const char* kSpecs[] = {"int4",
                                  "int4:zero_point=true",
                                  "int4:group=row,zero_point=true",
                                  "fp4:group=64",
                                  "nf4",
                                  "nf4:double=true",
                                  "mxfp4",
                                  "mxfp4:search=mse",
                                  "nvfp4",
                                  "nvfp4:search=4over6",
                                  "amxfp4",
                                  "amxfp4:tensor_scale=true"};

TEST_F(OmniQuant, NeverWorseThanItsStart) {
  for (const std::string spec : kSpecs) {
    for (const std::string start : {"search", "published"}) {
      SCOPED_TRACE(spec + " " + start);
      const QuantizedLayer before = quantize("omniquant:epochs=0,init=" + start, spec);
      const QuantizedLayer after = quantize("omniquant:epochs=6,init=" + start, spec);
      EXPECT_TRUE(after.transforms.channel_scale.scale.empty());
      const double error_before = error_of(before.weight);
      const double error = error_of(after.weight);
      EXPECT_LE(error, error_before * (1 + 1e-5));
      // Powers of two cannot be moved a little, double quantization moves them again.
      const bool fine = spec.find("mxfp4") != 0 && spec.find("double") == std::string::npos;
      if (fine || start == "published") {
        EXPECT_LT(error, error_before * 0.99);
      }
      ASSERT_EQ(after.decisions.back().first, "omniquant error");
      EXPECT_NEAR(std::stod(after.decisions.back().second), error, 1e-3 * error);
    }
  }
}

/// Searched scales with the importance alone are what it starts from.
TEST_F(OmniQuant, StartsFromTheSearch) {
  const double clip = error_of(quantize("clip", "int4:group=row").weight);
  const double start = error_of(quantize("omniquant:epochs=0", "int4:group=row").weight);
  const double rtn = error_of(quantize("rtn", "int4:group=row").weight);
  EXPECT_LT(start, rtn);
  EXPECT_NEAR(start, clip, 0.2 * clip);
}

struct UnevenLevels {
  static constexpr const char* kName = "uneven";
  static constexpr std::array<float, 16> kLevels = {-9, -7, -5, -4, -3, -2, -1, 0,
                                                    1,  2,  3,  5,  8,  12, 18, 27};
};

TEST_F(OmniQuant, UserFormats) {
  const AnyFormat format = BlockFormat<UnevenLevels, AbsmaxScale>("uneven", 48, LevelTies::even,
                                                                  AbsmaxScale(ScaleType::bf16));
  OmniQuantOptions options;
  options.epochs = 0;
  const OmniQuantResult before = quantize_omniquant(w(), format, calibration, serial, options);
  options.epochs = 6;
  const OmniQuantResult after = quantize_omniquant(w(), format, calibration, serial, options);
  EXPECT_LT(error_of(after.matrix), 0.95 * error_of(before.matrix));
  EXPECT_NEAR(after.error, error_of(after.matrix), 1e-3 * after.error);
}

TEST_F(OmniQuant, ChannelScalesWithActivations) {
  for (const std::string spec : {"int4:group=row,zero_point=true", "mxfp4", "nvfp4", "amxfp4"}) {
    SCOPED_TRACE(spec);
    const AnyFormat activations = parse_format(spec);
    const double without =
        db(quantize("omniquant:epochs=4,let=false", spec, activations), activations);
    const double start = db(quantize("omniquant:epochs=0", spec, activations), activations);
    const QuantizedLayer layer = quantize("omniquant:epochs=4", spec, activations);
    ASSERT_EQ(layer.transforms.channel_scale.scale.size(), kCols);
    for (const float scale : layer.transforms.channel_scale.scale) {
      EXPECT_TRUE(std::isfinite(scale) && scale > 0);
    }
    EXPECT_GE(db(layer, activations), start - 1e-3);
    EXPECT_GT(db(layer, activations), without + 0.2);
    // A power of two does not move a little.
    if (spec != "mxfp4") {
      EXPECT_GT(db(layer, activations), start + 0.2);
    }
    EXPECT_EQ(layer.decisions.front().first, "omniquant alpha");
    // What it says is what is measured: the sample is all tokens here.
    EXPECT_NEAR(-10 * std::log10(std::stod(layer.decisions.back().second)), db(layer, activations),
                0.01);
    // Channels stay as they are where they are told to, and the clips where those are.
    EXPECT_GE(db(quantize("omniquant:epochs=4,lwc=false", spec, activations), activations), start);
  }
}

TEST_F(OmniQuant, ChannelScalesWithoutActivations) {
  const std::string spec = "int4:group=row";
  const QuantizedLayer without = quantize("omniquant:epochs=4", spec);
  const QuantizedLayer with = quantize("omniquant:epochs=4,let=true", spec);
  EXPECT_TRUE(without.transforms.channel_scale.scale.empty());
  EXPECT_EQ(with.transforms.channel_scale.scale.size(), kCols);
  EXPECT_GT(db(with), db(without) + 1);
  EXPECT_NEAR(-10 * std::log10(std::stod(with.decisions.back().second)), db(with), 0.01);
}

/// Steps far too large lead nowhere: the training goes on from the best there was.
TEST_F(OmniQuant, KeepsTheBestScales) {
  const AnyFormat format = parse_format("int4:group=row,zero_point=true");
  const std::string spec = format.info().spec;
  const double start = db(quantize("omniquant:epochs=0", spec, format), format);
  EXPECT_GT(db(quantize("omniquant:epochs=4,let_lr=1", spec, format), format), start + 0.2);
}

/// A channel that calibration never saw would, with SmoothQuant's own 1e-5, lose its weights.
TEST_F(OmniQuant, DeadChannelsKeepTheirWeights) {
  const QuantizedLayer layer = quantize("omniquant:epochs=2,let=true", "int4:group=row");
  const std::vector<float> effective = effective_weight(layer, serial);
  double error = 0;
  double whole = 0;
  for (std::size_t row = 0; row < kRows; ++row) {
    const auto expected = static_cast<double>(w().at(row, kDead));
    const double difference = static_cast<double>(effective[row * kCols + kDead]) - expected;
    error += difference * difference;
    whole += expected * expected;
  }
  EXPECT_LT(error, 0.3 * whole);
}

TEST_F(OmniQuant, SameBytesForAnyNumberOfTasks) {
  const Method method("omniquant:epochs=2");
  for (const std::string spec : {"int4:group=row,zero_point=true", "nvfp4", "amxfp4"}) {
    const AnyFormat format = parse_format(spec);
    for (const bool activations : {false, true}) {
      LayerOptions options;
      if (activations) options.activations = format;
      const QuantizedLayer expected =
          quantize_layer(w(), format, method, &calibration, serial, options);
      for (const std::size_t tasks : {2U, 5U}) {
        ThreadExecutor threads(tasks);
        const QuantizedLayer got =
            quantize_layer(w(), format, method, &calibration, threads, options);
        EXPECT_EQ(got.weight.codes, expected.weight.codes) << spec << tasks;
        EXPECT_EQ(got.weight.scales, expected.weight.scales) << spec << tasks;
        EXPECT_EQ(got.weight.zero_points, expected.weight.zero_points) << spec << tasks;
        EXPECT_EQ(got.transforms.channel_scale.scale, expected.transforms.channel_scale.scale)
            << spec << tasks;
      }
    }
  }
}

TEST_F(OmniQuant, AsTheLastStepOfOthers) {
  const std::string spec = "int4:group=row";
  const double alone = db(quantize("omniquant:epochs=2", spec));
  EXPECT_GT(db(quantize("awq+omniquant:epochs=2", spec)), alone + 1);
  EXPECT_GT(db(quantize("smoothquant+omniquant:epochs=2", spec)),
            db(quantize("smoothquant+rtn", spec)) + 1);
  EXPECT_GT(db(quantize("awq+omniquant:epochs=2,let=true", spec)), alone + 1);
  // Behind a rotation channels cannot be scaled: not by itself, and not if it is asked to.
  const AnyFormat activations = parse_format("mxfp4");
  const QuantizedLayer rotated =
      quantize("hadamard:block=32+omniquant:epochs=2", "mxfp4", activations);
  EXPECT_TRUE(rotated.transforms.channel_scale.scale.empty());
  expect_error(ErrorCode::bad_option, {"layer", "rotation"}, [&] {
    (void)quantize("hadamard:block=32+omniquant:let=true", "mxfp4", activations);
  });
}

TEST_F(OmniQuant, ZerosAndEmptyRows) {
  std::fill_n(weight.begin(), kCols, 0.0F);
  std::fill_n(weight.begin() + 5 * kCols, kCols, 0.3F);
  std::fill_n(weight.begin() + 6 * kCols, kCols, -0.3F);
  for (const std::string spec : kSpecs) {
    for (const std::string let : {"false", "true"}) {
      const QuantizedLayer layer = quantize("omniquant:epochs=2,let=" + let, spec);
      std::vector<float> decoded(kRows * kCols);
      dequantize(layer.weight, {decoded.data(), kRows, kCols}, serial);
      for (std::size_t i = 0; i < decoded.size(); ++i) {
        ASSERT_TRUE(std::isfinite(decoded[i])) << spec << let << i;
        if (i < kCols) {
          ASSERT_EQ(decoded[i], 0) << spec << let;
        }
      }
    }
  }
  std::fill(weight.begin(), weight.end(), 0.0F);
  const QuantizedLayer layer = quantize("omniquant:epochs=2,let=true", "int4");
  EXPECT_EQ(layer.decisions.back().second, "0");
}

TEST_F(OmniQuant, BadOptions) {
  EXPECT_EQ(Method("omniquant:epochs=20,lwc=true,let=auto,lr=0.01,let_lr=0.005,init=search").spec(),
            "omniquant");
  EXPECT_EQ(Method("omniquant:let=true,init=published,lr=0.02").spec(),
            "omniquant:let=true,lr=0.02,init=published");
  for (const char* bad :
       {"epochs=-1", "epochs=1001", "lr=0", "let_lr=2", "let=yes", "init=zero", "rate=1"}) {
    expect_error(ErrorCode::bad_option, {"omniquant"},
                 [&] { Method(std::string("omniquant:") + bad); });
  }
  expect_error(ErrorCode::bad_option, {"layer", "needs calibration"}, [&] {
    quantize_layer(w(), parse_format("int4"), Method("omniquant"), nullptr, serial);
  });
  const AnyFormat format = parse_format("int4");
  OmniQuantOptions options;
  options.tensor_name = "layers.3";
  const auto expect_bad = [&](ErrorCode code, const std::vector<std::string>& parts) {
    expect_error(code, parts,
                 [&] { quantize_omniquant(w(), format, calibration, serial, options); });
  };
  options.epochs = -1;
  expect_bad(ErrorCode::bad_option, {"layers.3", "-1 epochs", "0 to 1000"});
  options.epochs = 1;
  options.clip_rate = 0;
  expect_bad(ErrorCode::bad_option, {"layers.3", "learning rate 0"});
  options.clip_rate = 0.01F;
  options.scale_rate = std::numeric_limits<float>::quiet_NaN();
  expect_bad(ErrorCode::bad_option, {"layers.3", "learning rate nan"});
  options.scale_rate = 0.01F;
  Calibration no_sample(kCols, {.sample_rows = 0});
  no_sample.add(x(), serial);
  options.activations = format;
  expect_error(ErrorCode::bad_option, {"layers.3", "no sample"},
               [&] { quantize_omniquant(w(), format, no_sample, serial, options); });
  expect_error(ErrorCode::bad_shape, {"layers.3", "96", "97"},
               [&] { quantize_omniquant(w(), format, Calibration(97), serial, options); });
  weight[3] = std::numeric_limits<float>::infinity();
  expect_bad(ErrorCode::bad_value, {"layers.3", "[0, 3]"});
}

/// Held-out error of the reference's own code, less the 0.1 dB that its random order of samples is
/// worth (algorithms.md section 5).
constexpr double kLeastDb = -0.1;

TEST(GoldenOmniQuant, LearnedClipping) {
  NYBBLE_GOLDEN_OR_SKIP(root, "quantizers");
  ThreadExecutor threads(2);
  std::size_t compared = 0;
  for (const auto& folder : golden_problems(root, kSanitized ? 5000 : 140000)) {
    const GoldenProblem problem(folder);
    for (const std::string kind : {"sym", "asym"}) {
      for (const std::string group : {"pc", "g32", "g128"}) {
        const std::string name = "omniquant.lwc." + kind + "." + group;
        if (!problem.results.contains(name) || !problem.results[name].contains("sqnr_test")) {
          continue;
        }
        SCOPED_TRACE(problem.name + " " + name);
        const std::string spec = "int4:group=" + (group == "pc" ? "row" : group.substr(1)) +
                                 (kind == "asym" ? ",zero_point=true" : "");
        const QuantizedLayer layer =
            quantize_layer(problem.weight.view(), parse_format(spec), Method("omniquant"),
                           &problem.calibration, threads);
        const double db = output_sqnr_db(problem.test_inputs.view(), problem.weight.view(), layer,
                                         std::nullopt, threads);
        EXPECT_GE(db - problem.results[name]["sqnr_test"].get<double>(), kLeastDb);
        ++compared;
      }
    }
  }
  EXPECT_GE(compared, kSanitized ? 3U : 15U);
}

TEST(GoldenOmniQuant, LearnedScalesAndClipping) {
  NYBBLE_GOLDEN_OR_SKIP(root, "quantizers");
  ThreadExecutor threads(2);
  const std::string spec = "int4:group=row,zero_point=true";
  const AnyFormat format = parse_format(spec);
  std::size_t compared = 0;
  for (const auto& folder : golden_problems(root, kSanitized ? 5000 : 70000)) {
    const GoldenProblem problem(folder);
    // The reference learns from all tokens, which are up to 2048.
    Calibration calibration(problem.weight.shape.at(1), {.sample_rows = 1024});
    calibration.add(problem.inputs.view(), threads);
    for (const bool quantized_inputs : {true, false}) {
      const std::string name =
          quantized_inputs ? "omniquant.lwc.let.w4a4.pc" : "omniquant.lwc.let.w4a16.pc";
      if (!problem.results.contains(name)) continue;
      SCOPED_TRACE(problem.name + " " + name);
      LayerOptions options;
      if (quantized_inputs) options.activations = format;
      const QuantizedLayer layer =
          quantize_layer(problem.weight.view(), format, Method("omniquant:let=true"), &calibration,
                         threads, options);
      const double db = output_sqnr_db(problem.test_inputs.view(), problem.weight.view(), layer,
                                       options.activations, threads);
      EXPECT_GE(db - problem.results[name]["sqnr_test"].get<double>(), kLeastDb);
      ++compared;
    }
  }
  EXPECT_GE(compared, kSanitized ? 1U : 8U);
}

}  // namespace
}  // namespace nybble::test
