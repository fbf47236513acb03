#include <gtest/gtest.h>

#include "nybble/io/npy.h"
#include "tests/format/golden.h"
#include "tests/io/layout/layout_support.h"
#include "tests/support/shared.h"

namespace nybble::test {
namespace {

using io::OwnedTensor;
using io::WrittenLayer;
using Verdict = io::Evidence::Verdict;

const io::Layout& layout() { return io::find_layout("gpt_oss"); }

OwnedTensor tensor(const std::string& name, const NpyArray& array) {
  const auto bytes = std::as_bytes(array.as<std::uint8_t>());
  return {name, TensorType::u8, array.shape, {bytes.begin(), bytes.end()}};
}

TEST(GptOssLayout, DecodesGoldenBlocksBitForBitAndWritesThemAgain) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  const NpyArray blocks = read_npy(root / "gptoss_mxfp4/blocks.npy");
  const NpyArray scales = read_npy(root / "gptoss_mxfp4/scales.npy");
  const std::vector<float> expected =
      read_npy(root / "gptoss_mxfp4/decode.gptoss_blocks.dq.npy").as_f32();
  const std::string hugging_face = "model.layers.0.mlp.experts.gate_up_proj";
  const std::string original = "block.0.mlp.mlp1_weight";
  for (const std::string& stem : {hugging_face + "_", original + "."}) {
    const WrittenLayer file = {{tensor(stem + "blocks", blocks), tensor(stem + "scales", scales)},
                               {}};
    const StoredLayer layer = read_back(layout(), file);
    EXPECT_EQ(layer.name, stem.substr(0, stem.size() - 1));
    EXPECT_EQ(layer.shape, (Shape{3, 4, 256}));
    EXPECT_EQ(layer.weight.rows, 12U);
    expect_same_values(dequantized(layer.weight), expected, stem);
    expect_same_tensors(layout().write(layer), file);
  }
}

TEST(GptOssLayout, RoundTripsLayersWithAndWithoutExperts) {
  for (const Shape& shape : {Shape{1, 32}, Shape{5, 96}, Shape{3, 2, 64}, Shape{1, 1, 32}}) {
    for (const char* name : {"m.down_proj", "block.1.mlp.mlp2_weight"}) {
      StoredLayer layer = random_layer(name, "mxfp4", shape);
      layer.weight.scales[0] = 255;
      expect_kept(layout(), layer);
    }
  }
}

TEST(GptOssLayout, NamesTheTensorThatIsMissingOrOfAnotherTypeOrShape) {
  for (const Shape& shape : {Shape{5, 64}, Shape{3, 2, 64}}) {
    expect_tensors_are_checked(layout(), layout().write(random_layer("m", "mxfp4", shape)),
                               {"m_blocks"}, {});
  }
}

TEST(GptOssLayout, ClaimsOnlyBlocksOfSixteenBytesUnderItsTwoNames) {
  const auto finds = [](const char* name, TensorType type, const Shape& shape, std::size_t bytes) {
    const io::MemorySource source(
        WrittenLayer{{{name, type, shape, std::vector<std::byte>(bytes)}}, {}});
    return layout().find(source).size();
  };
  EXPECT_EQ(finds("a_blocks", TensorType::u8, {2, 1, 16}, 32), 1U);
  EXPECT_EQ(finds("a_weight.blocks", TensorType::u8, {2, 1, 16}, 32), 1U);
  // Whose name could not be told from the module's.
  EXPECT_EQ(finds("a_weight_blocks", TensorType::u8, {2, 1, 16}, 32), 0U);
  EXPECT_EQ(finds("a.blocks", TensorType::u8, {2, 1, 16}, 32), 0U);
  EXPECT_EQ(finds("ablocks", TensorType::u8, {2, 1, 16}, 32), 0U);
  EXPECT_EQ(finds("blocks", TensorType::u8, {2, 1, 16}, 32), 0U);
  EXPECT_EQ(finds("_blocks", TensorType::u8, {2, 1, 16}, 32), 0U);
  EXPECT_EQ(finds("a_blocks", TensorType::u8, {2, 16}, 32), 0U);
  EXPECT_EQ(finds("a_blocks", TensorType::u8, {4, 1, 8}, 32), 0U);
  EXPECT_EQ(finds("a_blocks", TensorType::i8, {2, 1, 16}, 32), 0U);
  EXPECT_EQ(finds("a_blocks", TensorType::u8, {0, 1, 16}, 0), 0U);
}

TEST(GptOssLayout, RefusesWhatItCannotHold) {
  for (const char* spec : {"int4", "nvfp4", "mxfp4:group=16"}) {
    expect_error(ErrorCode::unsupported, {"gpt_oss", spec}, [&] {
      layout().check(parse_format(spec), Shape{4, 64});
    });
  }
  for (const Shape& shape : {Shape{64}, Shape{4, 48}, Shape{2, 2, 4, 64}}) {
    expect_error(ErrorCode::unsupported, {"shape"},
                 [&] { layout().check(parse_format("mxfp4"), shape); });
  }
  StoredLayer scaled = random_layer("m", "mxfp4", {4, 32});
  scaled.input_scale = TensorScale{};
  expect_error(ErrorCode::unsupported, {"m", "tensor scale of the input"},
               [&] { static_cast<void>(layout().write(scaled)); });
  StoredLayer wrong = random_layer("m", "mxfp4", {4, 32});
  wrong.shape = {3, 2, 32};
  expect_error(ErrorCode::bad_shape, {"m", "[3, 2, 32]"},
               [&] { static_cast<void>(layout().write(wrong)); });
}

TEST(GptOssLayout, IsJudgedByItsConfigAndItsExponents) {
  StoredLayer layer = random_layer("m", "mxfp4", {2, 4, 64});
  const auto judged = [&](const json& config) {
    const io::MemorySource source(layout().write(layer), config);
    return layout().judge(source, layout().find(source));
  };
  const json own = layout().config(layer.weight.format, std::vector<std::string>{"lm_head"});
  EXPECT_EQ(
      own, (json{{"quant_method", "mxfp4"}, {"modules_to_not_convert", json::array({"lm_head"})}}));
  EXPECT_EQ(judged(own).config, Verdict::in_favour);
  EXPECT_EQ(judged(own).data, Verdict::in_favour);
  EXPECT_EQ(judged(json::object()).config, Verdict::silent);
  EXPECT_EQ(judged({{"quant_method", "awq"}}).config, Verdict::against);
  layer.weight.scales[2] = 255;
  EXPECT_EQ(judged(own).data, Verdict::silent);
}

}  // namespace
}  // namespace nybble::test
