#include <gtest/gtest.h>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/io/quantized_checkpoint.h"
#include "nybble/io/safetensors.h"
#include "src/io/layout/layout.h"
#include "tests/io/layout/layer_files.h"
#include "tests/io/temporary_folder.h"

namespace nybble::test {
namespace {

using io::WrittenLayer;
using nlohmann::json;

/// Two layers in one file.
WrittenLayer two_layers(const io::Layout& layout, const std::string& spec) {
  WrittenLayer out;
  for (const char* name : {"model.layers.0.up_proj", "model.layers.1.up_proj"}) {
    StoredLayer layer = random_layer(spec, 16, 128, 7);
    layer.name = name;
    for (io::OwnedTensor& tensor : layout.write(layer).tensors)
      out.tensors.push_back(std::move(tensor));
  }
  out.tensors.push_back(zero_tensor("model.norm.weight", TensorType::f32, {128}));
  return out;
}

struct Detected {
  std::string layout;  ///< of both layers
  std::vector<std::string> reasons;
};

Detected detected(const WrittenLayer& file, const json& config, const std::string& forced = "") {
  const io::MemorySource source(file, config);
  Detected out;
  const auto found = io::detect(source, forced, out.reasons);
  EXPECT_EQ(found.size(), 2U);
  for (const io::FoundModule& module : found) {
    out.layout = module.layout->name();
    EXPECT_EQ(out.layout, found[0].layout->name());
    EXPECT_EQ(module.module.shape, (std::vector<std::size_t>{16, 128}));
    (void)module.layout->read(source, module.module);
  }
  return out;
}

WrittenLayer gptq_file(bool v2, const std::string& spec = "int4:group=64") {
  return two_layers(io::find_layout(v2 ? "gptq_v2" : "gptq"), spec);
}

bool any_has(const std::vector<std::string>& lines, const std::string& part) {
  for (const std::string& line : lines) {
    if (line.find(part) != std::string::npos) return true;
  }
  return false;
}

TEST(Detect, SymmetricGptqTellsItsVersionByItself) {
  for (const bool v2 : {false, true}) {
    const Detected found = detected(gptq_file(v2), json::object());
    EXPECT_EQ(found.layout, v2 ? "gptq_v2" : "gptq");
    EXPECT_TRUE(any_has(found.reasons, v2 ? "qzeros\" is 0x88888888 throughout, zero points of 8"
                                          : "qzeros\" is 0x77777777 throughout, zero points of 8"));
  }
}

TEST(Detect, AFileThatSaysGptqAndStoresV2ZerosIsRefusedWithBothReadings) {
  // Qwen3.5-27B-GPTQ-Int4 (vLLM pull request 38966).
  const WrittenLayer file = gptq_file(true);
  for (const json& config :
       {json{{"quant_method", "gptq"}, {"bits", 4}, {"sym", true}, {"checkpoint_format", "gptq"}},
        json{{"quant_method", "gptq"}, {"bits", 4}}, json{{"bits", 4}, {"desc_act", false}}}) {
    expect_error(
        ErrorCode::bad_file,
        {"model.layers.0.up_proj", "contradict", "gptq: quant_method is \"gptq\"",
         "0x88888888 throughout, zero points of 9", "gptq_v2: ", "zero points of 8", "--layout"},
        [&] { detected(file, config); });
    EXPECT_EQ(detected(file, config, "gptq_v2").layout, "gptq_v2");
    const io::MemorySource source(file, config);
    std::vector<std::string> reasons;
    const auto found = io::detect(source, "gptq_v2", reasons);
    EXPECT_EQ(found[0].layout->read(source, found[0].module).weight.format.info().spec,
              "int4:group=64");
  }
  // And the other way round.
  expect_error(ErrorCode::bad_file, {"gptq_v2", "0x77777777 throughout, zero points of 7"}, [] {
    detected(gptq_file(false), {{"quant_method", "gptq"}, {"checkpoint_format", "gptq_v2"}});
  });
}

TEST(Detect, TheConfigDecidesBetweenGptqVersionsWithZeroPoints) {
  const std::string spec = "int4:group=64,zero_point=true";
  const auto layout_of = [&](bool v2, const json& config) {
    return detected(gptq_file(v2, spec), config).layout;
  };
  EXPECT_EQ(layout_of(false, {{"quant_method", "gptq"}, {"sym", false}}), "gptq");
  EXPECT_EQ(layout_of(true, {{"quant_method", "gptq"}, {"checkpoint_format", "gptq_v2"}}),
            "gptq_v2");
  EXPECT_EQ(layout_of(false,
                      {{"quant_method", "auto-round"}, {"packing_format", "auto_round:auto_gptq"}}),
            "gptq");
  EXPECT_EQ(layout_of(true, {{"quant_method", "auto-round"}, {"packing_format", "auto_round"}}),
            "gptq_v2");
  EXPECT_EQ(
      layout_of(true, {{"quant_method", "auto-round"}, {"packing_format", "auto_round:gptqmodel"}}),
      "gptq_v2");
  expect_error(ErrorCode::bad_file, {"several layouts fit", "gptq: only names", "gptq_v2: only"},
               [&] { layout_of(false, json::object()); });
  EXPECT_EQ(detected(gptq_file(true, spec), json::object(), "gptq_v2").layout, "gptq_v2");
  // An asymmetric model may have 0x88888888 throughout by chance.
  EXPECT_EQ(detected(gptq_file(true), {{"quant_method", "gptq"}, {"sym", false}}).layout, "gptq");
  // Junk in a symmetric model is said.
  EXPECT_TRUE(
      any_has(detected(gptq_file(false, spec), {{"quant_method", "gptq"}, {"sym", true}}).reasons,
              "sym is true, but zero points differ"));
}

TEST(Detect, OtherBitsAndOtherMethodsAreNotGptq) {
  for (const json& config :
       {json{{"quant_method", "gptq"}, {"bits", 8}}, json{{"quant_method", "gptq"}, {"bits", "x"}},
        json{{"quant_method", "gptq"}, {"checkpoint_format", "marlin"}},
        json{{"quant_method", "compressed-tensors"}}, json{{"quant_method", "awq"}}}) {
    expect_error(ErrorCode::bad_file, {"model.layers.0.up_proj", "quant_method is"},
                 [&] { detected(gptq_file(false), config); });
    EXPECT_EQ(detected(gptq_file(false), config, "gptq").layout, "gptq");
  }
}

TEST(Detect, AwqAndGptqDifferInShapesAlone) {
  for (const char* name : {"awq_gemm", "awq_gemv"}) {
    const WrittenLayer file = two_layers(io::find_layout(name), "int4:group=32,zero_point=true");
    EXPECT_EQ(detected(file, json::object()).layout, name);
    EXPECT_EQ(detected(file, {{"quant_method", "awq"}, {"version", name + 4}}).layout, name);
    expect_error(ErrorCode::bad_file, {name, "gemv_fast"}, [&] {
      detected(file, {{"quant_method", "awq"}, {"version", "gemv_fast"}});
    });
    expect_error(ErrorCode::bad_file, {name, "quant_method is \"gptq\""}, [&] {
      detected(file, {{"quant_method", "gptq"}});
    });
  }
  const WrittenLayer gemm = two_layers(io::find_layout("awq_gemm"), "int4:group=32");
  EXPECT_EQ(detected(gemm, {{"quant_method", "awq"}, {"version", "GEMM"}}).layout, "awq_gemm");
  EXPECT_EQ(detected(gemm, {{"quant_method", "awq"}}).layout, "awq_gemm");
  expect_error(ErrorCode::bad_file, {"awq_gemm", "gemv"}, [&] {
    detected(gemm, {{"quant_method", "awq"}, {"version", "gemv"}});
  });
}

TEST(Detect, EveryShapeOfAKindIsTakenForNoOther) {
  // With groups of at least 16 no layer of one kind has the shapes of another.
  const auto kinds = [](const io::Layout& layout, const StoredLayer& layer) {
    const io::MemorySource source(layout.write(layer));
    std::vector<std::string> names;
    for (const char* name : {"gptq", "awq_gemm", "awq_gemv"}) {
      if (!io::find_layout(name).find(source).empty()) names.emplace_back(name);
    }
    return names;
  };
  for (const std::string name : {"gptq", "awq_gemm", "awq_gemv"}) {
    const io::Layout& layout = io::find_layout(name);
    for (std::size_t rows = 8; rows <= 128; rows += 8) {
      for (const std::size_t group : {16U, 32U, 64U, 128U}) {
        for (std::size_t count = 1; count <= 8; ++count) {
          if (group == 16 && name == "awq_gemv") continue;
          StoredLayer layer =
              random_layer("int4:group=" + std::to_string(group), rows, group * count, 1);
          layer.details["gptq.g_idx"] = "none";
          EXPECT_EQ(kinds(layout, layer), std::vector<std::string>{name})
              << rows << " x " << group * count << " group " << group;
        }
      }
    }
  }
}

TEST(Detect, AModuleThatFitsNoLayoutIsRefusedUnlessTheConfigNamesOne) {
  const WrittenLayer file = without(two_layers(io::find_layout("awq_gemm"), "int4:zero_point=true"),
                                    "model.layers.1.up_proj.scales");
  expect_error(ErrorCode::bad_file,
               {"model.layers.1.up_proj", "several layouts fit", "gptq: only", "awq_gemv: only"},
               [&] { detected(file, json::object()); });
  const io::MemorySource source(file, {{"quant_method", "awq"}});
  std::vector<std::string> reasons;
  const auto found = io::detect(source, "", reasons);
  ASSERT_EQ(found.size(), 2U);
  expect_error(ErrorCode::bad_file, {"no tensor", "model.layers.1.up_proj.scales"},
               [&] { (void)found[1].layout->read(source, found[1].module); });
}

TEST(Detect, BitsandbytesIsFoundAndContradictedByAnotherMethod) {
  const WrittenLayer file = two_layers(io::find_layout("bitsandbytes"), "nf4:double=true");
  EXPECT_EQ(detected(file, json::object()).layout, "bitsandbytes");
  EXPECT_EQ(detected(file, {{"quant_method", "bitsandbytes"}}).layout, "bitsandbytes");
  expect_error(ErrorCode::bad_file, {"bitsandbytes", "quant_method is \"gptq\""}, [&] {
    detected(file, {{"quant_method", "gptq"}});
  });
}

TEST(Detect, AForcedLayoutThatIsNotThereIsAnError) {
  expect_error(ErrorCode::bad_file, {"memory", "bitsandbytes", "asked for"},
               [] { detected(gptq_file(false), json::object(), "bitsandbytes"); });
  expect_error(ErrorCode::bad_option, {"unknown layout 'gptq3'", "gptq_v2"},
               [] { detected(gptq_file(false), json::object(), "gptq3"); });
}

class QuantizedCheckpointTest : public testing::Test {
 protected:
  void write(const WrittenLayer& file, const std::string& config) {
    SafetensorsWriter writer(folder_ / "model.safetensors");
    for (const io::OwnedTensor& tensor : file.tensors) {
      writer.add(tensor.name, tensor.type, tensor.shape, tensor.bytes);
    }
    writer.finish();
    if (!config.empty()) write_text(folder_ / "config.json", config);
  }
  TemporaryFolder folder_;
};

TEST_F(QuantizedCheckpointTest, ListsLayersAndTheOtherTensors) {
  write(gptq_file(false), R"({"quantization_config": {"quant_method": "gptq", "sym": true}})");
  const QuantizedCheckpoint checkpoint(folder_.path());
  ASSERT_EQ(checkpoint.layers().size(), 2U);
  EXPECT_EQ(checkpoint.layers()[1].name, "model.layers.1.up_proj");
  EXPECT_EQ(checkpoint.layers()[1].layout, "gptq");
  EXPECT_EQ(checkpoint.layers()[1].tensors.size(), 4U);
  ASSERT_EQ(checkpoint.tensors().size(), 1U);
  EXPECT_EQ(checkpoint.tensors()[0].name, "model.norm.weight");
  EXPECT_EQ(checkpoint.read_f32("model.norm.weight"), std::vector<float>(128));
  StoredLayer expected = random_layer("int4:group=64", 16, 128, 7);
  expected.name = "model.layers.0.up_proj";
  expect_same_layer(checkpoint.read("model.layers.0.up_proj"), expected, "read");
}

TEST_F(QuantizedCheckpointTest, RefusesAContradictionUnlessALayoutIsForced) {
  write(gptq_file(true), R"({"quantization_config": {"quant_method": "gptq", "sym": true}})");
  expect_error(ErrorCode::bad_file, {folder_.path().string(), "contradict", "gptq_v2"},
               [&] { QuantizedCheckpoint checkpoint(folder_.path()); });
  const QuantizedCheckpoint forced(folder_.path(), "gptq_v2");
  EXPECT_EQ(forced.read("model.layers.0.up_proj").weight.format.info().spec, "int4:group=64");
}

}  // namespace
}  // namespace nybble::test
