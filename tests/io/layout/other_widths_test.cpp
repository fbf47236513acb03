// Layers of 8 bits beside those of 4: found, named, kept, and in nobody's way.

#include "src/io/layout/other_widths.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "nybble/io/convert.h"
#include "nybble/io/quantized_checkpoint.h"
#include "nybble/io/validate.h"
#include "src/io/layout/layout.h"
#include "tests/io/layout/layout_support.h"
#include "tests/io/temporary_folder.h"

namespace nybble::test {
namespace {

constexpr std::size_t kRows = 64;
constexpr std::size_t kCols = 128;

std::vector<std::int32_t> words(std::size_t count) {
  return std::vector<std::int32_t>(count, 0x7F7F7F7F);
}

std::vector<std::int32_t> group_index() {
  std::vector<std::int32_t> out;
  for (std::size_t k = 0; k < kCols; ++k) out.push_back(static_cast<std::int32_t>(k / 32));
  return out;
}

/// A GPTQ layer of that many bits.
std::vector<io::OwnedTensor> gptq_layer(const std::string& name, std::size_t bits, bool index) {
  const std::size_t words_of_column = kCols * bits / 32;
  const std::size_t words_of_zeros = kRows * bits / 32;
  std::vector<io::OwnedTensor> out = {
      tensor(name + ".qweight", TensorType::i32, {words_of_column, kRows},
             words(words_of_column * kRows)),
      tensor(name + ".qzeros", TensorType::i32, {4, words_of_zeros}, words(4 * words_of_zeros)),
      tensor(name + ".scales", TensorType::f16, {4, kRows},
             std::vector<std::uint16_t>(4 * kRows, 0x3C00))};
  if (index) out.push_back(tensor(name + ".g_idx", TensorType::i32, {kCols}, group_index()));
  return out;
}

io::MemorySource source_of(std::vector<io::OwnedTensor> tensors) {
  return io::MemorySource({std::move(tensors), {}});
}

TEST(OtherWidths, AreToldByShapes) {
  for (const std::size_t bits : {2U, 3U, 8U}) {
    for (const bool index : {false, true}) {
      SCOPED_TRACE(std::to_string(bits) + (index ? " with g_idx" : ""));
      const io::MemorySource source = source_of(gptq_layer("a.b", bits, index));
      EXPECT_EQ(io::other_widths(source), (std::map<std::string, std::size_t>{{"a.b", bits}}));
      for (const auto& layout : io::layouts()) EXPECT_TRUE(layout->find(source).empty());
    }
  }
  for (const bool index : {false, true}) {
    EXPECT_TRUE(io::other_widths(source_of(gptq_layer("a.b", 4, index))).empty());
  }
  // AWQ packs outputs.
  EXPECT_EQ(io::other_widths(source_of(
                {tensor("a.qweight", TensorType::i32, {kCols, kRows / 4}, words(kCols * kRows / 4)),
                 tensor("a.qzeros", TensorType::i32, {4, kRows / 4}, words(kRows)),
                 tensor("a.scales", TensorType::f16, {4, kRows},
                        std::vector<std::uint16_t>(4 * kRows, 0x3C00))})),
            (std::map<std::string, std::size_t>{{"a", 8}}));
  // Where g_idx and zero points disagree the layer is damaged, not of another width.
  std::vector<io::OwnedTensor> damaged = gptq_layer("a", 4, true);
  damaged[1] = gptq_layer("a", 8, true)[1];
  EXPECT_TRUE(io::other_widths(source_of(damaged)).empty());
}

/// A folder with a layer of 4 bits, which is written by us, and one of 8.
class MixedWidths : public testing::Test {
 protected:
  void SetUp() override {
    write(R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32,
              "desc_act": false, "sym": true, "checkpoint_format": "gptq",
              "dynamic": {"+:.*k_proj": {"bits": 8}}}})");
  }
  void write(const std::string& config) {
    write_text(folder_ / "config.json", config);
    io::WrittenLayer written =
        io::find_layout("gptq").write(random_layer("layers.0.q_proj", "int4", {kRows, kCols}));
    for (io::OwnedTensor& more : gptq_layer("layers.0.k_proj", 8, true)) {
      written.tensors.push_back(std::move(more));
    }
    SafetensorsWriter file(folder_ / "model.safetensors");
    for (const io::OwnedTensor& one : written.tensors) {
      file.add(one.name, one.type, one.shape, one.bytes);
    }
    file.finish();
  }

  TemporaryFolder folder_;
  SerialExecutor executor_;
};

TEST_F(MixedWidths, AreReadAndNamed) {
  const std::string gptq = R"("quant_method": "gptq", "checkpoint_format": "gptq", )";
  const std::string auto_round =
      R"("quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", )";
  for (const std::string& config :
       {gptq + R"("bits": 4, "dynamic": {"+:.*k_proj": {"bits": 8}})",
        gptq + R"("bits": 8, "dynamic": {"+:.*q_proj": {"bits": 4}})",
        auto_round + R"("bits": 4, "extra_config": {"layers.0.k_proj": {"bits": 8}})"}) {
    SCOPED_TRACE(config);
    write(R"({"quantization_config": {"group_size": 32, )" + config + "}}");
    const QuantizedCheckpoint checkpoint(folder_.path());
    ASSERT_EQ(checkpoint.layers().size(), 1U);
    EXPECT_EQ(checkpoint.read("layers.0.q_proj").shape, (Shape{kRows, kCols}));
    EXPECT_EQ(checkpoint.tensors().size(), 4U);
    EXPECT_EQ(checkpoint.other_widths(),
              (std::map<std::string, std::size_t>{{"layers.0.k_proj", 8}}));
    EXPECT_EQ(checkpoint.reasons().back(),
              "8 bits: 1 layers, kept as they are (\"layers.0.k_proj\")");
    std::vector<std::string> found;
    validate(
        checkpoint, {}, [&](const Finding& finding) { found.push_back(finding.text()); },
        executor_);
    EXPECT_EQ(found,
              std::vector<std::string>{
                  "layers.0.k_proj: width is 8 bits, expected 4: its tensors are not checked"});
  }
}

TEST_F(MixedWidths, AreKeptByConversionsThatCanSaySo) {
  const std::string before = read_text(folder_ / "model.safetensors");
  for (const char* layout : {"gptq_v2", "compressed_tensors", "gguf"}) {
    expect_error(ErrorCode::unsupported, {"\"layers.0.k_proj\"", "8 bits", layout}, [&] {
      convert_checkpoint(folder_.path(), folder_ / "refused",
                         {.layout = layout, .drop_details = true}, executor_);
    });
    EXPECT_FALSE(std::filesystem::exists(folder_ / "refused/model.safetensors"));
  }
  expect_error(ErrorCode::unsupported, {"\"layers.0.k_proj\"", "8 bits"}, [&] {
    convert_checkpoint(folder_.path(), folder_ / "refused", {.layout = "nybble", .format = "nf4"},
                       executor_);
  });
  convert_checkpoint(folder_.path(), folder_ / "ours", {.layout = "nybble"}, executor_);
  const QuantizedCheckpoint ours(folder_ / "ours");
  EXPECT_EQ(ours.other_widths(), QuantizedCheckpoint(folder_.path()).other_widths());
  convert_checkpoint(folder_ / "ours", folder_ / "back", {.layout = "gptq"}, executor_);
  EXPECT_EQ(QuantizedCheckpoint(folder_ / "back").other_widths().size(), 1U);
  EXPECT_EQ(json::parse(read_text(folder_ / "back/config.json")),
            json::parse(read_text(folder_ / "config.json")));
  const SafetensorsFile original(folder_ / "model.safetensors");
  const SafetensorsFile back(folder_ / "back/model.safetensors");
  for (const TensorView& one : original.tensors()) {
    const TensorView& same = back.at(one.name);
    EXPECT_TRUE(
        std::equal(one.bytes.begin(), one.bytes.end(), same.bytes.begin(), same.bytes.end()))
        << one.name;
  }
}

}  // namespace
}  // namespace nybble::test
