#include <fmt/format.h>
#include <gtest/gtest.h>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/io/gguf.h"
#include "nybble/io/quantized_checkpoint.h"
#include "nybble/quantize/rtn.h"
#include "tests/format/golden.h"
#include "tests/io/gguf_text.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

/// Bytes without a pattern, all of them valid blocks of any type.
std::string block_bytes(GgufType type, std::size_t values, std::uint32_t seed) {
  const std::size_t size = gguf_block_bytes(type);
  std::string out(values / gguf_block_values(type) * size, '\0');
  for (std::size_t i = 0; i < out.size(); ++i) {
    seed = seed * 1664525 + 1013904223;
    const bool scale_byte = i % size < 4;  // kept small and positive
    out[i] = static_cast<char>(scale_byte ? 0x21 : seed >> 24);
  }
  return out;
}

struct Part {
  std::string name;
  GgufType type;
  std::vector<std::uint64_t> dims;  ///< K first
  std::string data;
};

std::string gguf_file(const std::vector<Part>& parts) {
  GgufText text(parts.size(), 4);
  text.key("general.architecture", 8).text("llama");
  text.key("llama.block_count", 4).put(2U);
  text.key("llama.rope", 6).put(0.5F);
  text.key("tokens", 9).put(8U).put<std::uint64_t>(1).text("a");
  std::uint64_t offset = 0;
  for (const Part& part : parts) {
    text.tensor(part.name, part.dims, static_cast<std::uint32_t>(part.type), offset);
    offset = (offset + part.data.size() + 31) / 32 * 32;
  }
  for (const Part& part : parts) text.pad().data(part.data);
  return text.pad().bytes();
}

std::string number(float value) { return {reinterpret_cast<const char*>(&value), sizeof(float)}; }

/// A file with a layer of every 4-bit type among other tensors.
std::vector<Part> model() {
  std::vector<Part> parts = {
      {"token_embd.weight", GgufType::q8_0, {32, 3}, block_bytes(GgufType::q8_0, 96, 9)},
      {"norm.weight", GgufType::f32, {2}, number(1) + number(-2)}};
  std::uint32_t seed = 1;
  for (const GgufType type : {GgufType::q4_0, GgufType::q4_1, GgufType::q4_k, GgufType::iq4_nl,
                              GgufType::iq4_xs, GgufType::mxfp4, GgufType::nvfp4}) {
    const std::string name = fmt::format("blk.0.{}", gguf_type_name(type));
    parts.push_back({name + ".weight", type, {256, 3}, block_bytes(type, 3 * 256, seed++)});
    if (type == GgufType::nvfp4) {
      parts.push_back({name + ".scale", GgufType::f32, {1}, number(0.25F)});
      parts.push_back({name + ".input_scale", GgufType::f32, {1}, number(3)});
    }
  }
  parts.push_back({"blk.1.exps.weight",
                   GgufType::mxfp4,
                   {32, 2, 5},
                   block_bytes(GgufType::mxfp4, 320, seed++)});
  parts.push_back(
      {"blk.1.plain.weight", GgufType::nvfp4, {64, 2}, block_bytes(GgufType::nvfp4, 128, seed++)});
  parts.push_back(
      {"blk.1.one.weight", GgufType::nvfp4, {64, 2}, block_bytes(GgufType::nvfp4, 128, seed++)});
  parts.push_back({"blk.1.one.scale", GgufType::f32, {1}, number(1)});
  parts.push_back({"vector", GgufType::q4_0, {64}, block_bytes(GgufType::q4_0, 64, seed++)});
  parts.push_back({"half", GgufType::f16, {3}, "abcdef"});
  parts.push_back({"brain", GgufType::bf16, {1, 2}, "abcd"});
  parts.push_back({"count", GgufType::i32, {2}, "abcdefgh"});
  parts.push_back({"k", GgufType::q6_k, {256}, block_bytes(GgufType::q6_k, 256, seed++)});
  return parts;
}

class GgufCheckpoint : public testing::Test {
 protected:
  QuantizedCheckpoint open(const std::vector<Part>& parts) {
    write_text(path(), gguf_file(parts));
    return QuantizedCheckpoint(path());
  }
  [[nodiscard]] std::filesystem::path path() const { return folder_ / "model.bin"; }
  TemporaryFolder folder_;
};

TEST_F(GgufCheckpoint, ListsLayersTensorsAndWhatItFound) {
  const QuantizedCheckpoint checkpoint = open(model());
  std::vector<std::string> names;
  for (const auto& layer : checkpoint.layers()) {
    EXPECT_EQ(layer.layout, "gguf");
    names.push_back(layer.name);
  }
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  const auto layer = [&](const std::string& name) {
    const auto found = std::find(names.begin(), names.end(), name);
    EXPECT_NE(found, names.end()) << name;
    return checkpoint.layers()[static_cast<std::size_t>(found - names.begin())];
  };
  EXPECT_EQ(layer("blk.0.Q4_0").shape, (std::vector<std::size_t>{3, 256}));
  EXPECT_EQ(layer("blk.1.exps").shape, (std::vector<std::size_t>{5, 2, 32}));
  EXPECT_EQ(layer("blk.0.NVFP4").tensors,
            (std::vector<std::string>{"blk.0.NVFP4.weight", "blk.0.NVFP4.scale",
                                      "blk.0.NVFP4.input_scale"}));
  std::string others;
  for (const auto& tensor : checkpoint.tensors()) others += tensor.name + " " + tensor.type + ";";
  EXPECT_EQ(others,
            "token_embd.weight Q8_0;norm.weight F32;vector Q4_0;half F16;brain BF16;count I32;"
            "k Q6_K;");
  ASSERT_EQ(checkpoint.reasons().size(), 3U);
  EXPECT_EQ(checkpoint.reasons()[0], "gguf: version 3, architecture \"llama\"");
  EXPECT_NE(checkpoint.reasons()[1].find("Q4_0 1"), std::string::npos);
  EXPECT_NE(checkpoint.reasons()[2].find("Q6_K 1"), std::string::npos);
  EXPECT_EQ(
      checkpoint.metadata(),
      (std::map<std::string, std::string>{
          {"general.architecture", "llama"}, {"llama.block_count", "2"}, {"llama.rope", "0.5"}}));
}

TEST_F(GgufCheckpoint, ReadsScalesAndOtherTensors) {
  const QuantizedCheckpoint checkpoint = open(model());
  const StoredLayer layer = checkpoint.read("blk.0.NVFP4");
  EXPECT_EQ(layer.weight.tensor.scale, 0.25F);
  EXPECT_EQ(layer.input_scale.value().scale, 3);
  const StoredLayer plain = checkpoint.read("blk.1.plain");
  EXPECT_EQ(plain.weight.tensor.scale, 1);
  EXPECT_FALSE(plain.input_scale.has_value());
  EXPECT_EQ(checkpoint.read("blk.1.exps").weight.rows, 10U);

  EXPECT_EQ(checkpoint.read_f32("norm.weight"), (std::vector<float>{1, -2}));
  EXPECT_EQ(checkpoint.read_f32("vector").size(), 64U);
  std::vector<float> storage;
  const auto raw = [&](const std::string& name) { return checkpoint.raw(name, storage); };
  EXPECT_EQ(checkpoint.bytes("k").size(), gguf_block_bytes(GgufType::q6_k));
  EXPECT_EQ(checkpoint.files(), std::vector<std::filesystem::path>{path()});
  EXPECT_EQ(raw("half").type, TensorType::f16);
  EXPECT_EQ(std::to_integer<char>(raw("half").bytes[5]), 'f');
  EXPECT_EQ(raw("brain").type, TensorType::bf16);
  EXPECT_EQ(raw("brain").shape, (std::vector<std::size_t>{2, 1}));
  EXPECT_EQ(raw("count").type, TensorType::i32);
  const TensorView embedding = raw("token_embd.weight");
  EXPECT_EQ(embedding.type, TensorType::f32);
  EXPECT_EQ(embedding.shape, (std::vector<std::size_t>{3, 32}));
  EXPECT_EQ(to_f32(embedding), checkpoint.read_f32("token_embd.weight"));
  expect_error(ErrorCode::unsupported, {"\"k\"", "Q6_K"}, [&] { (void)checkpoint.read_f32("k"); });
  expect_error(ErrorCode::bad_option, {"blk.0.Q4_2", "blk.0.Q4_1"},
               [&] { (void)checkpoint.read("blk.0.Q4_2"); });
}

TEST_F(GgufCheckpoint, LayersAreWrittenAgainByteForByte) {
  const QuantizedCheckpoint checkpoint = open(model());
  const GgufFile file(path());
  GgufWriter writer(folder_ / "again.gguf");
  for (const auto& [key, value] : file.values()) writer.set(key, value);
  std::map<std::string, std::string> layer_of;  // by tensor
  for (const auto& layer : checkpoint.layers()) {
    for (const std::string& tensor : layer.tensors) layer_of[tensor] = layer.name;
  }
  std::size_t reads = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    const auto found = layer_of.find(tensor.name);
    if (found == layer_of.end()) {
      writer.add(tensor.name, tensor.type, tensor.shape, tensor.bytes);
    } else if (tensor.name == found->second + ".weight") {
      add_layer(
          writer,
          [&, name = found->second] {
            ++reads;
            return checkpoint.read(name);
          },
          tensor.type);
    }
  }
  writer.finish();
  EXPECT_EQ(reads, 2 * checkpoint.layers().size());
  EXPECT_EQ(read_text(folder_ / "again.gguf"), read_text(path()));
}

TEST_F(GgufCheckpoint, WhatIsQuantizedHereIsReadAsItWas) {
  SerialExecutor executor;
  const std::vector<float> x = normal_values(6 * 512, 5);
  for (const char* spec : {"int4", "iq4_nl", "mxfp4", "nvfp4"}) {
    const QuantizedMatrix q = quantize_rtn({x.data(), 6, 512}, parse_format(spec), executor);
    const StoredLayer layer = {"blk.0.up", {2, 3, 512}, q, {}};
    GgufWriter writer(path());
    add_layer(writer, layer);
    writer.finish();
    const StoredLayer read = QuantizedCheckpoint(path()).read("blk.0.up");
    EXPECT_EQ(read.shape, layer.shape);
    EXPECT_EQ(read.weight.format.info().spec, spec);
    EXPECT_EQ(read.weight.codes, q.codes) << spec;
    EXPECT_EQ(read.weight.scales, q.scales) << spec;
    EXPECT_EQ(read.weight.tensor.scale, q.tensor.scale) << spec;
    expect_same_values(dequantized(read.weight), dequantized(q), spec);
  }
}

TEST_F(GgufCheckpoint, RefusesLayersItCannotHold) {
  SerialExecutor executor;
  const std::vector<float> x = normal_values(2 * 64, 5);
  const auto refuse = [&](const StoredLayer& layer, const std::vector<std::string>& parts,
                          std::optional<GgufType> type = std::nullopt,
                          ErrorCode code = ErrorCode::unsupported) {
    GgufWriter writer(path());
    expect_error(code, parts, [&] { add_layer(writer, layer, type); });
  };
  const auto layer = [&](const char* spec) {
    return StoredLayer{
        "up", {2, 64}, quantize_rtn({x.data(), 2, 64}, parse_format(spec), executor), {}};
  };
  refuse(layer("nf4"), {"\"up\"", "'nf4'"});
  refuse(layer("int4"), {"\"up\"", "Q4_K", "'int4'"}, GgufType::q4_k);
  StoredLayer scaled = layer("int4");
  scaled.transforms.channel_scale.scale.assign(64, 2);
  refuse(scaled, {"\"up\"", "channel scale"});
  StoredLayer biased = layer("int4");
  biased.transforms.bias.assign(2, 1);
  refuse(biased, {"\"up\""});
  StoredLayer activations = layer("mxfp4");
  activations.input_scale = TensorScale{2};
  refuse(activations, {"\"up\"", "input scale"});
  StoredLayer shape = layer("int4");
  shape.shape = {64, 2};
  refuse(shape, {"\"up\"", "[64, 2]"}, std::nullopt, ErrorCode::bad_shape);
}

TEST_F(GgufCheckpoint, NamesTheTensorThatIsWrong) {
  const auto expect = [&](const Part& scale, ErrorCode code,
                          const std::vector<std::string>& parts) {
    const QuantizedCheckpoint checkpoint =
        open({{"a.weight", GgufType::nvfp4, {64, 2}, block_bytes(GgufType::nvfp4, 128, 1)}, scale});
    expect_error(code, parts, [&] { (void)checkpoint.read("a"); });
  };
  for (const char* name : {"a.scale", "a.input_scale"}) {
    expect({name, GgufType::f16, {1}, "ab"}, ErrorCode::bad_file, {name, "F16"});
    expect({name, GgufType::f32, {2}, number(1) + number(2)}, ErrorCode::unsupported,
           {name, "[2]"});
    for (const float bad : {0.0F, -1.0F, std::nanf(""), HUGE_VALF}) {
      expect({name, GgufType::f32, {1}, number(bad)}, ErrorCode::bad_file, {name, "positive"});
    }
  }
  std::string blocks = block_bytes(GgufType::nvfp4, 128, 1);
  blocks[36] = '\x80';
  const QuantizedCheckpoint signed_scale = open({{"a.weight", GgufType::nvfp4, {64, 2}, blocks}});
  expect_error(ErrorCode::bad_file, {"model.bin", "\"a.weight\"", "scale 0 of row 1", "0x80"},
               [&] { (void)signed_scale.read("a"); });
  const QuantizedCheckpoint empty = open({{"a.weight", GgufType::q4_0, {0, 2}, ""}});
  expect_error(ErrorCode::bad_file, {"\"a.weight\"", "[2, 0]"}, [&] { (void)empty.read("a"); });
}

TEST_F(GgufCheckpoint, HasOneLayout) {
  write_text(path(), gguf_file(model()));
  EXPECT_EQ(QuantizedCheckpoint(path(), "gguf").layers().size(), 10U);
  expect_error(ErrorCode::bad_option, {"model.bin", "'gptq'", "gguf"},
               [&] { QuantizedCheckpoint(path(), "gptq"); });
  write_text(path(), "GGUG....");
  expect_error(ErrorCode::bad_file, {"model.bin", "\"GGUG\""},
               [&] { QuantizedCheckpoint(path(), "gguf"); });
  expect_error(ErrorCode::io, {"no such file"},
               [&] { QuantizedCheckpoint(folder_ / "no such file", "gguf"); });
}

}  // namespace
}  // namespace nybble::test
