#include "nybble/io/validate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "nybble/format/element.h"
#include "nybble/format/registry.h"
#include "nybble/io/gguf.h"
#include "nybble/io/safetensors.h"
#include "nybble/quantize/rtn.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/all_specs.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble {
namespace {

constexpr std::size_t kRows = 6;
constexpr std::size_t kCols = 72;  // with padding for groups of 32 and 16

StoredLayer quantized(const std::string& spec) {
  SerialExecutor serial;
  const std::vector<float> weight = test::normal_values(kRows * kCols, 3);
  return {"layer",
          {kRows, kCols},
          quantize_rtn({weight.data(), kRows, kCols}, parse_format(spec), serial),
          {}};
}

std::vector<Finding> findings(const StoredLayer& layer, bool signed_scales = false) {
  test::ThreadExecutor threads(2);
  return validate(layer, signed_scales, threads);
}

/// Expects one finding with that text.
void expect_one(const std::vector<Finding>& found, Severity severity, const std::string& text) {
  ASSERT_EQ(found.size(), 1U) << (found.empty() ? "" : found.back().text());
  EXPECT_EQ(found[0].severity, severity) << found[0].text();
  EXPECT_EQ(found[0].text(), text);
}

TEST(Validate, NothingIsWrongWithWhatWeQuantize) {
  for (const std::string& spec : test::all_specs()) {
    const std::vector<Finding> found = findings(quantized(spec));
    EXPECT_TRUE(found.empty()) << spec << ": " << found[0].text();
  }
}

TEST(Validate, ScalesOfSuperBlocksAreBytes) {
  for (const char* spec : {"q4_1", "q4_k", "iq4_xs"}) {
    StoredLayer layer{"layer", {kRows, 512}, QuantizedMatrix(parse_format(spec), kRows, 512), {}};
    std::fill(layer.weight.scales.begin(), layer.weight.scales.end(), std::uint8_t{1});
    std::fill(layer.weight.nested_scales.begin(), layer.weight.nested_scales.end(), 0.5F);
    const std::vector<Finding> found = findings(layer);
    EXPECT_TRUE(found.empty()) << spec << ": " << found[0].text();
  }
}

TEST(Validate, ZerosAndTinyNumbersAreNoErrors) {
  SerialExecutor serial;
  for (const std::string& spec : test::all_specs()) {
    const std::vector<float> zeros(kRows * kCols);
    const StoredLayer layer{"layer",
                            {kRows, kCols},
                            quantize_rtn({zeros.data(), kRows, kCols}, parse_format(spec), serial),
                            {}};
    const std::vector<Finding> found = findings(layer);
    EXPECT_TRUE(found.empty()) << spec << ": " << found[0].text();
  }
}

TEST(Validate, NonfiniteScalesAreErrorsWithTheFirstPlaceAndTheirNumber) {
  StoredLayer layer = quantized("int4");
  layer.weight.set_scale(3, 1, {NAN, NAN, 0});
  layer.weight.set_scale(4, 0, {INFINITY, INFINITY, 0});
  expect_one(findings(layer), Severity::error,
             "layer: scales[3, 1] is nan, expected a finite number (the first of 2)");
  layer = quantized("mxfp4");
  layer.weight.scales[0] = 255;
  expect_one(findings(layer), Severity::error,
             "layer: scales[0, 0] is nan, expected a finite number");
}

TEST(Validate, SignBitsOfFp8ScalesAreErrors) {
  StoredLayer layer = quantized("nvfp4");
  layer.weight.scales[layer.weight.groups + 2] = 0xB8;  // -1
  expect_one(findings(layer), Severity::error,
             "layer: scales[1, 2] is -1 (0xb8), expected a byte without sign bit");
  layer = quantized("amxfp4");
  layer.weight.scales[1] |= 0x80;  // the negative side's
  ASSERT_EQ(findings(layer).size(), 1U);
  EXPECT_EQ(findings(layer)[0].place, "scales[0, 0]");
}

TEST(Validate, NegativeFloatScalesAreWarningsUnlessTheLayoutHasThem) {
  StoredLayer layer = quantized("int4");
  layer.weight.set_scale(2, 0, {-0.5F, -0.5F, 0});
  expect_one(findings(layer), Severity::warning,
             "layer: scales[2, 0] is -0.5, expected a positive number");
  EXPECT_TRUE(findings(layer, true).empty());
}

TEST(Validate, ZeroScalesAreWarningsOnlyOverCodesThatAreNotZero) {
  for (const char* spec : {"int4", "int4:zero_point=true", "nf4", "nvfp4", "amxfp4"}) {
    StoredLayer layer = quantized(spec);
    const std::uint8_t zero = layer.weight.zero_points.empty() ? 0 : layer.weight.zero_points[0];
    layer.weight.set_scale(0, 0, {0, 0, static_cast<float>(zero)});
    const std::vector<Finding> found = findings(layer);
    ASSERT_EQ(found.size(), 1U) << spec;
    EXPECT_EQ(found[0].severity, Severity::warning);
    EXPECT_EQ(found[0].place, "scales[0, 0]");
    EXPECT_EQ(found[0].found, "0");
    // Its codes all zero: that is how zeros are stored.
    const std::uint8_t code = encode_value(layer.weight.format.encode_table(),
                                           ScaleChoice{{0, 0, static_cast<float>(zero)}, 1, 1}, 0);
    for (std::size_t i = 0; i < layer.weight.group / 2; ++i) {
      layer.weight.codes[i] = static_cast<std::uint8_t>(code * 0x11);
    }
    EXPECT_TRUE(findings(layer).empty()) << spec;
  }
}

TEST(Validate, ASidesZeroScaleCountsOnlyThatSidesCodes) {
  StoredLayer layer = quantized("amxfp4");
  for (std::size_t i = 0; i < 16; ++i) layer.weight.codes[i] = 0x21;  // 0.5 and 1
  layer.weight.set_scale(0, 0, {1, 0, 0});
  EXPECT_TRUE(findings(layer).empty());
  layer.weight.set_scale(0, 0, {0, 1, 0});
  EXPECT_EQ(findings(layer).size(), 1U);
}

TEST(Validate, E8M0ScalesThatNoWeightsHaveAreWarnings) {
  StoredLayer layer = quantized("mxfp4");
  layer.weight.scales[0] = 99;
  layer.weight.scales[1] = 141;
  expect_one(findings(layer), Severity::warning,
             "layer: scales[0, 0] is 2^-28, expected 2^-27 to 2^13, as weights have (the first of "
             "2)");
  layer.weight.scales[0] = 100;
  layer.weight.scales[1] = 140;
  EXPECT_TRUE(findings(layer).empty());
}

TEST(Validate, ZeroPointsBeyondFifteenAreErrors) {
  StoredLayer layer = quantized("int4:zero_point=true");
  layer.weight.zero_points[layer.weight.groups * 2 + 1] = 16;
  expect_one(findings(layer), Severity::error, "layer: zero_points[2, 1] is 16, expected 0 to 15");
}

TEST(Validate, ZeroPointsOffByOneThroughoutAreAWarning) {
  for (const int zero : {7, 8, 9}) {
    QuantizedMatrix matrix(parse_format("int4:zero_point=true"), 32, 32);
    std::fill(matrix.zero_points.begin(), matrix.zero_points.end(),
              static_cast<std::uint8_t>(zero));
    matrix.codes.assign(matrix.codes.size(), static_cast<std::uint8_t>(zero * 0x11));
    const std::vector<Finding> found = findings({"layer", {32, 32}, matrix, {}});
    ASSERT_EQ(found.size(), zero == 8 ? 0U : 1U);
    for (const Finding& finding : found) EXPECT_EQ(finding.severity, Severity::warning);
  }
}

TEST(Validate, CodesOfPaddingMustBeZero) {
  StoredLayer layer = quantized("nvfp4");
  ASSERT_EQ(layer.weight.padded_cols, 80U);
  layer.weight.codes[40 + 39] = 0x80;  // -0 is a zero
  EXPECT_TRUE(findings(layer).empty());
  layer.weight.codes[40 + 39] = 0x30;
  expect_one(findings(layer), Severity::warning,
             "layer: codes[1, 79] is code 3, expected a zero, for it is padding");
}

TEST(Validate, TensorScalesMustBePositiveNumbers) {
  for (const float scale : {0.0F, -1.0F, std::nanf(""), INFINITY}) {
    StoredLayer layer = quantized("nvfp4");
    layer.weight.tensor.scale = scale;
    const std::vector<Finding> found = findings(layer);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].place, "tensor scale");
    EXPECT_EQ(found[0].severity, Severity::error);
    layer = quantized("nvfp4");
    layer.input_scale = TensorScale{scale};
    ASSERT_EQ(findings(layer).size(), 1U);
    EXPECT_EQ(findings(layer)[0].place, "input scale");
  }
  StoredLayer layer = quantized("nvfp4");
  layer.weight.tensor = {};
  ASSERT_EQ(findings(layer).size(), 1U);
  EXPECT_EQ(findings(layer)[0].severity, Severity::note);
}

TEST(Validate, TransformsThatDoNotFitAreErrors) {
  StoredLayer layer = quantized("int4");
  layer.transforms.permutation.source.assign(kCols, 0);
  ASSERT_EQ(findings(layer).size(), 1U);
  EXPECT_EQ(findings(layer)[0].place, "transforms");
  layer.transforms = {};
  layer.transforms.channel_scale.scale.assign(kCols, 1);
  layer.transforms.channel_scale.scale[5] = NAN;
  layer.transforms.channel_scale.scale[7] = 0;
  const std::vector<Finding> found = findings(layer);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].text(), "layer: channel_scale[5] is nan, expected a finite number");
  EXPECT_EQ(found[0].severity, Severity::error);
  EXPECT_EQ(found[1].text(), "layer: channel_scale[7] is 0, expected a number that is not 0");
  EXPECT_EQ(found[1].severity, Severity::warning);
}

TEST(Validate, TheShapeMustBeThatOfTheCodes) {
  StoredLayer layer = quantized("int4");
  layer.shape = {2, 3, kCols};
  EXPECT_TRUE(findings(layer).empty());
  layer.shape = {kRows, kCols + 1};
  ASSERT_EQ(findings(layer).size(), 1U);
  EXPECT_EQ(findings(layer)[0].found, "[6, 73]");
}

TEST(Validate, NonfiniteValuesOfATensorAreOneError) {
  test::ThreadExecutor threads(2);
  std::vector<float> values(24, 1.0F);
  const std::size_t shape[] = {2, 3, 4};
  EXPECT_TRUE(validate("norm", shape, values, threads).empty());
  values[17] = NAN;
  values[23] = -INFINITY;
  expect_one(validate("norm", shape, values, threads), Severity::error,
             "norm: value[1, 1, 1] is nan, expected a finite number (the first of 2)");
  EXPECT_TRUE(validate("empty", {}, {}, threads).empty());
}

TEST(Validate, AModelsShapeIsReadFromItsConfig) {
  const test::TemporaryFolder folder;
  const std::vector<float> values(4);
  const std::size_t shape[] = {4};
  SafetensorsWriter writer(folder / "model.safetensors");
  writer.add("norm", TensorType::f32, shape, std::as_bytes(std::span(values)));
  writer.finish();
  const QuantizedCheckpoint checkpoint(folder.path());
  EXPECT_EQ(read_model_shape(folder.path(), checkpoint).hidden_size, 0U);
  test::write_text(folder / "config.json", R"({"hidden_size": 64, "intermediate_size": [8, 9]})");
  EXPECT_EQ(read_model_shape(folder.path(), checkpoint).hidden_size, 64U);
  EXPECT_EQ(read_model_shape(folder.path(), checkpoint).intermediate_size, 0U);
  EXPECT_EQ(read_model_shape(folder / "model.safetensors", checkpoint).hidden_size, 64U);
  test::write_text(folder / "config.json",
                   R"({"hidden_size": 1, "text_config": {"hidden_size": 2}})");
  EXPECT_EQ(read_model_shape(folder.path(), checkpoint).hidden_size, 2U);
  test::write_text(folder / "config.json", "[1]");
  test::expect_error(ErrorCode::bad_file, {"config.json"},
                     [&] { (void)read_model_shape(folder.path(), checkpoint); });
}

TEST(Validate, ACheckpointOfFloatsIsReadWhole) {
  const test::TemporaryFolder folder;
  const std::vector<float> values = {1, 2, NAN, 4};
  const std::size_t shape[] = {4};
  SafetensorsWriter writer(folder / "model.safetensors");
  writer.add("good", TensorType::u32, shape, std::as_bytes(std::span(values)));
  writer.add("wrong", TensorType::f32, shape, std::as_bytes(std::span(values)));
  writer.finish();
  test::ThreadExecutor threads(2);
  std::vector<Finding> found;
  const std::map<std::string, std::size_t> not_checked = validate(
      QuantizedCheckpoint(folder.path()), {},
      [&](const Finding& finding) { found.push_back(finding); }, threads);
  expect_one(found, Severity::error, "wrong: value[2] is nan, expected a finite number");
  EXPECT_EQ(not_checked, (std::map<std::string, std::size_t>{{"U32", 1}}));
}

TEST(Validate, TensorsOfGgufTypesThatAreNotReadAreCounted) {
  const test::TemporaryFolder folder;
  const std::size_t shape[] = {256};
  GgufWriter writer(folder / "model.gguf");
  const std::vector<std::byte> zeros(1024);
  writer.add("a", GgufType::q6_k, shape, std::span(zeros).first(210));
  writer.add("b", GgufType::q6_k, shape, std::span(zeros).first(210));
  writer.add("norm", GgufType::f32, shape, zeros);
  writer.finish();
  test::ThreadExecutor threads(2);
  const auto not_checked = validate(
      QuantizedCheckpoint(folder / "model.gguf"), {},
      [](const Finding& finding) { ADD_FAILURE() << finding.text(); }, threads);
  EXPECT_EQ(not_checked, (std::map<std::string, std::size_t>{{"Q6_K", 2}}));
}

}  // namespace
}  // namespace nybble
