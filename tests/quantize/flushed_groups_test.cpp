// Weights too small for the type of their scales: an error that says what holds them, never zeros.

#include "src/quantize/flushed_groups.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/quantize/method.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/all_specs.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

constexpr std::size_t kRows = 64;
constexpr std::size_t kCols = 64;

std::vector<float> scaled_weights(float scale) {
  std::vector<float> out = normal_values(kRows * kCols, 1);
  for (float& value : out) value *= scale;
  return out;
}

QuantizedLayer quantize(const std::vector<float>& weight, const std::string& spec,
                        const std::string& method = "rtn",
                        const Calibration* calibration = nullptr) {
  SerialExecutor executor;
  return quantize_layer({weight.data(), kRows, weight.size() / kRows}, parse_format(spec),
                        Method(method), calibration, executor, {.name = "model.q_proj"});
}

double sqnr(const std::vector<float>& weight, const QuantizedLayer& layer) {
  SerialExecutor executor;
  const std::vector<float> decoded = effective_weight(layer, executor);
  double signal = 0;
  double noise = 0;
  for (std::size_t i = 0; i < weight.size(); ++i) {
    const double error = static_cast<double>(weight[i]) - static_cast<double>(decoded[i]);
    signal += static_cast<double>(weight[i]) * static_cast<double>(weight[i]);
    noise += error * error;
  }
  return 10 * std::log10(signal / noise);
}

/// What the error of quantizing `weight` names after "expected "; empty: there is none.
std::string instead_of(const std::vector<float>& weight, const std::string& spec) {
  try {
    quantize(weight, spec);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::bad_value) << error.what();
    const std::string text = error.what();
    EXPECT_TRUE(text.starts_with("model.q_proj: weights of row ")) << text;
    const std::size_t at = text.find("expected ");
    EXPECT_NE(at, std::string::npos) << text;
    return at == std::string::npos ? "" : text.substr(at + 9);
  }
  return {};
}

TEST(FlushedGroups, TinyWeightsAreKeptAsWellAsLargeOnesOrRefusedInEveryFormat) {
  const std::vector<float> large = scaled_weights(1);
  const std::vector<float> tiny = scaled_weights(1e-9F);
  std::size_t refused = 0;
  for (const std::string& spec : all_specs()) {
    std::string used = spec;
    if (const std::string instead = instead_of(tiny, spec); !instead.empty()) {
      ++refused;
      // "amxfp4:scale=f32 or amxfp4:tensor_scale=true": the first will do.
      used = instead.substr(0, instead.find(" or "));
      if (used.starts_with("another format, such as ")) used = used.substr(24);
      EXPECT_NE(used.find("=f32"), std::string::npos) << spec << ": " << instead;
    }
    const double expected = sqnr(large, quantize(large, used));
    EXPECT_GT(sqnr(tiny, quantize(tiny, used)), expected - 0.5) << spec << " by " << used;
  }
  EXPECT_GT(refused, 10U);
}

TEST(FlushedGroups, WhatIsNamedHolds) {
  const std::vector<float> tiny = scaled_weights(1e-9F);
  EXPECT_EQ(instead_of(tiny, "int4"), "int4:scale=f32");
  EXPECT_EQ(instead_of(tiny, "int4:group=128,zero_point=true"),
            "int4:group=128,zero_point=true,scale=f32");
  EXPECT_EQ(instead_of(tiny, "iq4_nl"), "another format, such as int4:scale=f32");
  EXPECT_EQ(instead_of(tiny, "amxfp4"), "amxfp4:scale=f32 or amxfp4:tensor_scale=true");
  EXPECT_EQ(instead_of(tiny, "mxfp4"), "");
  EXPECT_EQ(instead_of(tiny, "nvfp4"), "");
  EXPECT_EQ(instead_of(tiny, "int4:scale=f32"), "");
  // Nothing can be divided by 7 that is the smallest number there is.
  const std::vector<float> smallest(kRows * kCols, std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(instead_of(smallest, "mxfp4"), "larger weights");
}

TEST(FlushedGroups, EveryMethodRefuses) {
  const std::vector<float> tiny = scaled_weights(1e-9F);
  const std::vector<float> inputs = normal_values(256 * kCols, 2);
  SerialExecutor executor;
  Calibration calibration(kCols);
  calibration.add({inputs.data(), 256, kCols}, executor);
  for (const std::string method : {"clip", "clip:loss=plain", "gptq", "gptq:channel_scale=false",
                                   "awq", "awq+gptq", "omniquant", "hadamard+rtn"}) {
    SCOPED_TRACE(method);
    expect_error(ErrorCode::bad_value, {"model.q_proj", "int4:scale=f32"},
                 [&] { quantize(tiny, "int4", method, &calibration); });
    EXPECT_GT(sqnr(tiny, quantize(tiny, "int4:scale=f32", method, &calibration)), 15);
  }
  // Moves the inputs' range to the weights, which are tiny no more.
  EXPECT_GT(sqnr(tiny, quantize(tiny, "int4", "smoothquant", &calibration)), 15);
}

TEST(FlushedGroups, AGroupThatIsNothingBesideTheOthersMayVanish) {
  for (const float tiny : {1e-9F, 1e-30F, 0.0F}) {
    std::vector<float> weight = scaled_weights(1);
    for (std::size_t i = 0; i < 32; ++i) weight[5 * kCols + i] *= tiny;     // a group
    for (std::size_t i = 0; i < kCols; ++i) weight[9 * kCols + i] *= tiny;  // a row
    const QuantizedLayer layer = quantize(weight, "int4");
    for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(layer.weight.value(5, i), 0);
    EXPECT_GT(sqnr(weight, layer), 17);
  }
}

TEST(FlushedGroups, OneLargeWeightDoesNotHideThatAllOthersVanish) {
  std::vector<float> weight = scaled_weights(2e-9F);
  weight[0] = 1e-6F;
  const std::vector<float> held = weight;
  EXPECT_EQ(instead_of(weight, "int4"), "int4:scale=f32");
  // Where all others are nothing to it, they may.
  weight[0] = 1e-3F;
  EXPECT_EQ(instead_of(weight, "int4"), "");
  expect_error(ErrorCode::bad_value, {"row ", "columns ", "largest "},
               [&] { quantize(held, "int4"); });
}

TEST(FlushedGroups, OneSignVanishesAlone) {
  // E5M2 scales reach down to a largest weight of 4.6e-5.
  std::vector<float> weight = scaled_weights(1e-5F);
  for (float& value : weight) value = value > 0 ? 300 * value : value;
  EXPECT_EQ(instead_of(weight, "amxfp4"), "");
  for (float& value : weight) value = value > 0 ? value / 30 : value;
  EXPECT_EQ(instead_of(weight, "amxfp4"), "amxfp4:scale=f32 or amxfp4:tensor_scale=true");
}

TEST(FlushedGroups, ZerosAreNotWeightsThatVanished) {
  const std::vector<float> zeros(kRows * kCols, 0.0F);
  for (const std::string& spec : few_specs()) EXPECT_EQ(instead_of(zeros, spec), "") << spec;
}

}  // namespace
}  // namespace nybble::test
