#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/format/golden.h"
#include "tests/io/layout/layout_support.h"
#include "tests/support/shared.h"

namespace nybble::test {
namespace {

using io::OwnedTensor;
using io::WrittenLayer;
using Verdict = io::Evidence::Verdict;

const io::Layout& layout() { return io::find_layout("modelopt_nvfp4"); }

TEST(ModeloptNvfp4Layout, DecodesGoldenTensorsBitForBitAndWritesThemAgain) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  std::size_t cases = 0;
  for (const GoldenCase& golden : golden_cases(root, "nvfp4")) {
    if (golden.variant != "modelopt") continue;
    SCOPED_TRACE(golden.label);
    const std::size_t rows = golden.rows;
    const std::size_t cols = golden.cols;
    const WrittenLayer file = {
        {tensor("a.weight", TensorType::u8, {rows, cols / 2}, golden.bytes("packed")),
         tensor("a.weight_scale", TensorType::f8_e4m3, {rows, cols / 16},
                golden.bytes("scale_e4m3")),
         tensor("a.weight_scale_2", TensorType::f32, {}, golden.floats("tensor_scale"))},
        {}};
    const StoredLayer layer = read_back(layout(), file);
    expect_same_values(dequantized(layer.weight), golden.floats("dq"), golden.label);
    expect_same_tensors(layout().write(layer), file);
    ++cases;
  }
  EXPECT_GE(cases, 13U);
}

TEST(ModeloptNvfp4Layout, RoundTripsLayersAndTheirInputScale) {
  for (const Shape& shape : {Shape{1, 16}, Shape{3, 48}, Shape{7, 256}}) {
    StoredLayer layer = random_layer("m.q", "nvfp4", shape);
    expect_kept(layout(), layer);
    layer.input_scale = TensorScale{0.0123F, 0, 0};
    const StoredLayer read = read_back(layout(), expect_kept(layout(), layer));
    ASSERT_TRUE(read.input_scale.has_value());
    EXPECT_EQ(read.input_scale->scale, 0.0123F);
    EXPECT_EQ(read.input_scale->divisor, 0.0F);
  }
}

TEST(ModeloptNvfp4Layout, ATensorScaleMayBeAVectorOfOne) {
  StoredLayer layer = random_layer("m.q", "nvfp4", {4, 32});
  layer.input_scale = TensorScale{0.0123F, 0, 0};
  WrittenLayer written = layout().write(layer);
  find_tensor(written, "m.q.weight_scale_2")->shape = {1};
  const StoredLayer read = read_back(layout(), written);
  EXPECT_EQ(read.weight.tensor.scale, layer.weight.tensor.scale);
  expect_same_tensors(layout().write(read), written);
}

TEST(ModeloptNvfp4Layout, NamesTheTensorThatIsMissingOrOfAnotherTypeOrShape) {
  StoredLayer layer = random_layer("m.q", "nvfp4", {4, 32});
  layer.input_scale = TensorScale{0.0123F, 0, 0};
  const WrittenLayer written = layout().write(layer);
  // With scales of another type it is another tool's: Quark's MXFP4, bitsandbytes.
  expect_tensors_are_checked(layout(), written, {"m.q.weight", "m.q.weight_scale"},
                             {"m.q.input_scale"});
  expect_damage(layout(), written, "m.q.weight_scale", {"no tensor \"m.q.weight_scale\""},
                [](OwnedTensor& t) { t.name += "_gone"; });
  expect_damage(layout(), written, "m.q.weight_scale", {"m.q.weight_scale", "[2, 4]", "[4, 2]"},
                [](OwnedTensor& t) {
                  t.shape = {2, 4};
                });
  WrittenLayer other = written;
  find_tensor(other, "m.q.weight_scale")->type = TensorType::u8;
  EXPECT_TRUE(layout().find(io::MemorySource(other)).empty());
}

TEST(ModeloptNvfp4Layout, RefusesScalesThatNoWriterMakes) {
  const WrittenLayer written = layout().write(random_layer("m.q", "nvfp4", {4, 32}));
  for (const unsigned byte : {0x7FU, 0x80U, 0xFFU}) {
    expect_damage(layout(), written, "m.q.weight_scale", {"m.q.weight_scale", "[3, 0]"},
                  [&](OwnedTensor& t) { t.bytes[6] = static_cast<std::byte>(byte); });
  }
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {0.0F, -3.0F, infinity, std::nanf("")}) {
    expect_damage(layout(), written, "m.q.weight_scale_2", {"m.q.weight_scale_2", "above 0"},
                  [&](OwnedTensor& t) { std::memcpy(t.bytes.data(), &value, 4); });
  }
}

TEST(ModeloptNvfp4Layout, RefusesWhatItCannotHold) {
  for (const char* spec : {"int4", "mxfp4", "fp4:group=16"}) {
    expect_error(ErrorCode::unsupported, {"modelopt_nvfp4", spec}, [&] {
      layout().check(parse_format(spec), Shape{4, 32});
    });
  }
  expect_error(ErrorCode::unsupported, {"[4, 24]", "16"}, [&] {
    layout().check(parse_format("nvfp4"), Shape{4, 24});
  });
  StoredLayer rotated = random_layer("m.q", "nvfp4", {4, 32});
  rotated.transforms.hadamard.block = 32;
  expect_error(ErrorCode::unsupported, {"m.q", "rotation"},
               [&] { static_cast<void>(layout().write(rotated)); });
  WrittenLayer awq = layout().write(random_layer("m.q", "nvfp4", {4, 32}));
  awq.tensors.push_back(
      tensor("m.q.pre_quant_scale", TensorType::f32, {32}, std::vector<float>(32, 2)));
  expect_error(ErrorCode::unsupported, {"m.q.pre_quant_scale"},
               [&] { static_cast<void>(read_back(layout(), awq)); });
}

TEST(ModeloptNvfp4Layout, IsJudgedByItsConfigAndItsScales) {
  StoredLayer layer = random_layer("m.q", "nvfp4", {4, 32});
  const auto judged = [&](const json& config) {
    const io::MemorySource source(layout().write(layer), config);
    return layout().judge(source, layout().find(source));
  };
  const json own = layout().config(layer.weight.format, std::vector<std::string>{"lm_head"});
  EXPECT_EQ(own.at("quant_method"), "modelopt");
  EXPECT_EQ(own.at("quant_algo"), "NVFP4");
  EXPECT_EQ(own.at("group_size"), 16);
  EXPECT_EQ(own.at("exclude_modules"), json::array({"lm_head"}));
  EXPECT_EQ(judged(own).config, Verdict::in_favour);
  EXPECT_EQ(judged(own).data, Verdict::in_favour);
  EXPECT_EQ(judged(json::object()).config, Verdict::silent);
  EXPECT_EQ(judged({{"quant_method", "modelopt"}, {"quant_algo", "W4A8_AWQ"}}).config,
            Verdict::against);
  EXPECT_EQ(judged({{"quant_method", "modelopt"}, {"quant_algo", "MIXED_PRECISION"}}).config,
            Verdict::silent);
  EXPECT_EQ(judged({{"quant_method", "compressed-tensors"}}).config, Verdict::against);
  EXPECT_EQ(judged(own).data_says.find("suspicious"), std::string::npos);
  layer.weight.tensor.scale = 2000;
  EXPECT_NE(judged(own).data_says.find("suspicious"), std::string::npos);
  layer.weight.tensor.scale = 1;
  EXPECT_EQ(judged(own).data_says.find("suspicious"), std::string::npos);
}

}  // namespace
}  // namespace nybble::test
