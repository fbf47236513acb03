#include "nybble/io/layer_writer.h"

#include <gtest/gtest.h>

#include "nybble/io/quantized_checkpoint.h"
#include "tests/io/layout/layout_support.h"

namespace nybble::test {
namespace {

TEST(LayerWriter, WritesLayersOfSeveralLayoutsThatACheckpointReadsAgain) {
  const TemporaryFolder folder;
  const std::vector<std::pair<std::string, StoredLayer>> layers = {
      {"nybble", random_layer("a.q", "nf4:double=true", {5, 37})},
      {"compressed_tensors", random_layer("b.q", "int4:group=64,scale=bf16", {9, 128})},
      {"compressed_tensors_mxfp4", random_layer("c.q", "mxfp4", {4, 64})},
      {"gpt_oss", random_layer("d.experts", "mxfp4", {2, 3, 32})},
      {"modelopt_nvfp4", random_layer("e.q", "nvfp4", {4, 32})}};
  const std::vector<std::byte> norm(8);
  {
    SafetensorsWriter writer(folder / "model.safetensors");
    writer.add("norm", TensorType::f32, Shape{2}, norm);
    for (const auto& [layout, layer] : layers) {
      const StoredLayer gone = layer;  // its bytes are the writer's by now
      add_layer(writer, gone, layout);
    }
    writer.finish();
  }
  const QuantizedCheckpoint checkpoint(folder.path());
  ASSERT_EQ(checkpoint.layers().size(), layers.size());
  EXPECT_EQ(checkpoint.reasons().size(), layers.size());
  ASSERT_EQ(checkpoint.tensors().size(), 1U);
  EXPECT_EQ(checkpoint.tensors()[0].name, "norm");
  EXPECT_EQ(checkpoint.metadata().at("a.q.weight.format"), "nf4:double=true");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto& [layout, layer] = layers[i];
    EXPECT_EQ(checkpoint.layers()[i].name, layer.name);
    EXPECT_EQ(checkpoint.layers()[i].layout, layout);
    EXPECT_EQ(checkpoint.layers()[i].shape, layer.shape);
    expect_same_matrix(checkpoint.read(layer.name).weight, layer.weight);
  }
}

TEST(LayerWriter, RefusesLayoutsThatDoNotExistOrCannotHoldTheLayer) {
  const TemporaryFolder folder;
  SafetensorsWriter writer(folder / "m.safetensors");
  const StoredLayer layer = random_layer("a.q", "nf4", {4, 64});
  expect_error(ErrorCode::bad_option, {"gguf5", "nybble"},
               [&] { add_layer(writer, layer, "gguf5"); });
  expect_error(ErrorCode::unsupported, {"a.q", "nf4"},
               [&] { add_layer(writer, layer, "compressed_tensors"); });
  add_layer(writer, layer, "nybble");
  expect_error(ErrorCode::bad_option, {"a.q.weight.codes", "twice"},
               [&] { add_layer(writer, layer, "nybble"); });
}

}  // namespace
}  // namespace nybble::test
