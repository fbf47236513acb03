#include <gtest/gtest.h>

#include "nybble/error.h"
#include "nybble/quantize/checkpoint.h"
#include "tests/io/temporary_folder.h"
#include "tests/quantize/checkpoint_model.h"

namespace nybble {
namespace {

using test::expect_error;

const std::vector<test::ModelTensor>& some_tensors() {
  static const std::vector<test::ModelTensor> tensors = {
      {"model.embed_tokens.weight", {64, 32}},
      {"model.layers.0.mlp.up_proj.weight", {96, 64}},
      {"model.layers.0.mlp.up_proj.bias", {96}},
      {"model.layers.0.mlp.gate.weight", {32, 64}},
      {"model.layers.0.router.weight", {32, 64}},
      {"model.layers.0.small.weight", {31, 64}},
      {"model.layers.0.experts.down_proj", {2, 32, 64}},
      {"model.layers.0.input_layernorm.weight", {64}},
      {"model.layers.0.q_norm.weight", {64, 64}},
      {"model.layers.0.counts.weight", {64, 64}, TensorType::i16},
      {"lm_head.weight", {64, 32}},
  };
  return tensors;
}

class CheckpointPlanning : public testing::Test {
 protected:
  void SetUp() override {
    test::write_model(folder_ / "model.safetensors", some_tensors());
    options_.source = folder_.path();
    options_.format = "int4";
  }
  /// "name: format method" or "name: reason" a line.
  std::string decisions() const {
    std::string out;
    const CheckpointPlan plan(options_);
    for (const PlannedTensor& tensor : plan.tensors()) {
      out += tensor.name.substr(
                 tensor.name.find("0.") == std::string::npos ? 0 : tensor.name.find("0.") + 2) +
             ": " +
             (tensor.format ? tensor.format->info().spec + " " + tensor.method : tensor.reason) +
             "\n";
    }
    return out;
  }
  void expect_refused(ErrorCode code, const std::vector<std::string>& parts) const {
    expect_error(code, parts, [&] { CheckpointPlan{options_}; });
  }

  test::TemporaryFolder folder_;
  CheckpointOptions options_;
};

TEST_F(CheckpointPlanning, QuantizesMatricesAndCopiesWhatLosesTooMuch) {
  EXPECT_EQ(decisions(),
            "model.embed_tokens.weight: embedding\n"
            "mlp.up_proj.weight: int4 rtn\n"
            "mlp.up_proj.bias: 1-D\n"
            "mlp.gate.weight: router\n"
            "router.weight: router\n"
            "small.weight: fewer than 32 rows or columns\n"
            "experts.down_proj: 3-D experts, no hidden_size\n"
            "input_layernorm.weight: 1-D\n"
            "q_norm.weight: norm\n"
            "counts.weight: not of floats\n"
            "lm_head.weight: output head\n");
}

/// What becomes of one tensor of 64 x 64 among others: its reason, empty if it is quantized.
std::string reason_for(const std::string& name, const CheckpointOptions& options) {
  test::TemporaryFolder folder;
  test::write_model(folder / "model.safetensors",
                    {{name, {64, 64}}, {"quantized.weight", {64, 64}}});
  CheckpointOptions of_folder = options;
  of_folder.source = folder.path();
  const CheckpointPlan plan(of_folder);
  for (const PlannedTensor& tensor : plan.tensors()) {
    if (tensor.name == name) return tensor.reason;
  }
  return "not there";
}

TEST_F(CheckpointPlanning, KnowsHeadsEmbeddingsAndRoutersByWholeNames) {
  for (const char* name :
       {"transformer.output_layer", "head", "lm_head", "lm_head.linear", "proj_out", "score",
        "model.classifier", "classifier.out_proj", "output", "model.layers.61.shared_head.head"}) {
    EXPECT_EQ(reason_for(std::string(name) + ".weight", options_), "output head") << name;
  }
  for (const char* name : {"emb", "rwkv.emb", "model.embed_tokens", "transformer.wte",
                           "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"}) {
    EXPECT_EQ(reason_for(std::string(name) + ".weight", options_), "embedding") << name;
  }
  for (const char* name :
       {"model.layers.0.mlp.gate", "model.layers.0.mlp.gate.wg", "layers.3.gate.linear"}) {
    EXPECT_EQ(reason_for(std::string(name) + ".weight", options_), "router") << name;
  }
  // Parts of those names, and what they mean elsewhere.
  for (const char* name :
       {"transformer_blocks.0.attn.proj_out", "layers.2.output_layer", "layers.0.heads",
        "layers.0.wg", "layers.0.linear", "layers.0.gate_proj", "layers.0.member", "overhead.fc",
        "layers.0.score_proj", "head.layers.0.fc", "classifiers.0.fc", "model.output"}) {
    EXPECT_EQ(reason_for(std::string(name) + ".weight", options_), "") << name;
  }
}

TEST_F(CheckpointPlanning, RulesOverrideEverythingThatCanBe) {
  options_.rules = {{"*", "nf4", "clip:loss=plain", false},
                    {"*.up_proj", {}, {}, true},
                    {"lm_head", "mxfp4", {}, false},
                    {"*mlp.up_proj*", "fp4", "rtn", false}};
  EXPECT_EQ(decisions(),
            "model.embed_tokens.weight: nf4 clip:loss=plain\n"
            "mlp.up_proj.weight: fp4 rtn\n"
            "mlp.up_proj.bias: 1-D\n"
            "mlp.gate.weight: nf4 clip:loss=plain\n"
            "router.weight: nf4 clip:loss=plain\n"
            "small.weight: nf4 clip:loss=plain\n"
            "experts.down_proj: nf4 clip:loss=plain\n"
            "input_layernorm.weight: 1-D\n"
            "q_norm.weight: nf4 clip:loss=plain\n"
            "counts.weight: not of floats\n"
            "lm_head.weight: mxfp4 clip:loss=plain\n");
}

TEST_F(CheckpointPlanning, ARuleForAMethodAloneLeavesCopiesAlone) {
  options_.rules = {{"*", {}, "clip:loss=plain", false}};
  const std::string text = decisions();
  EXPECT_NE(text.find("mlp.up_proj.weight: int4 clip:loss=plain"), std::string::npos) << text;
  EXPECT_NE(text.find("lm_head.weight: output head"), std::string::npos) << text;
}

TEST_F(CheckpointPlanning, RefusesRulesThatDoNothing) {
  options_.rules = {{"*.up_proj", "nf4", {}, false}, {"*.q_proj", "nf4", {}, false}};
  expect_refused(ErrorCode::bad_option, {"\"*.q_proj\"", "(of 2)", "matches no tensor"});
  options_.rules = {{"*.bias", "nf4", {}, false}};
  expect_refused(ErrorCode::bad_option, {"\"*.bias\"", "no tensor that can be quantized"});
  options_.rules = {{"*.up_proj", {}, {}, true}};
  expect_refused(ErrorCode::bad_option, {"no tensor to quantize among its 11"});
}

TEST_F(CheckpointPlanning, RefusesWhatIsNotUnderstood) {
  options_.format = "int5";
  expect_refused(ErrorCode::bad_option, {"int5"});
  options_.format = "int4";
  options_.method = "magic";
  expect_refused(ErrorCode::bad_option, {"magic"});
  options_.method = "rtn";
  options_.layout = "none";
  expect_refused(ErrorCode::bad_option, {"none", "nybble"});
  options_.layout = "nybble";
  options_.rules = {{"*", {}, {}, true}, {"none of them", "int5", {}, false}};
  expect_refused(ErrorCode::bad_option, {"int5"});
}

TEST_F(CheckpointPlanning, RefusesQuantizedSources) {
  const CheckpointPlan plan(options_);
  SerialExecutor executor;
  quantize_checkpoint(plan, executor, {.out = folder_ / "made"});
  options_.source = folder_ / "made";
  expect_refused(ErrorCode::bad_file, {"layers.0.mlp.up_proj", "nybble convert"});
  options_.source = folder_.path();
  test::write_text(folder_ / "config.json", R"({"quantization_config": {"quant_method": "fp8"}})");
  expect_refused(ErrorCode::bad_file, {"\"fp8\"", "nybble convert"});
}

TEST_F(CheckpointPlanning, NeedsInputsOfEveryCalibratedLayer) {
  options_.method = "awq";
  expect_refused(ErrorCode::bad_option, {"\"model.layers.0.mlp.up_proj\"", "needs calibration"});
  options_.calibration = folder_ / "inputs.safetensors";
  test::write_model(folder_ / "inputs.safetensors", {{"model.layers.0.q_proj", {50, 64}}});
  expect_refused(ErrorCode::bad_option, {"\"model.layers.0.mlp.up_proj\"", "inputs.safetensors"});
  test::write_model(folder_ / "inputs.safetensors", {{"model.layers.0.mlp.up_proj", {50, 63}}});
  expect_refused(ErrorCode::bad_shape, {"[50, 63]", "[tokens, 64]"});
  // up_proj reads what gate_proj does.
  for (const char* name : {"up_proj", "up_proj.weight", "up_proj.calib", "gate_proj.calib"}) {
    test::write_model(folder_ / "inputs.safetensors",
                      {{std::string("model.layers.0.mlp.") + name, {50, 64}}});
    EXPECT_FALSE(CheckpointPlan(options_).exact()) << name;
  }
  options_.method = "qep+rtn";
  expect_refused(ErrorCode::unsupported, {"up_proj.weight", "qep"});
}

TEST_F(CheckpointPlanning, ALayoutRefusesFormatsAndTransformsThatItCannotHold) {
  options_.layout = "compressed_tensors";
  options_.format = "nf4";
  expect_refused(ErrorCode::unsupported, {"up_proj.weight", "nf4"});
  options_.format = "int4";
  options_.method = "hadamard";
  expect_refused(ErrorCode::unsupported,
                 {"up_proj.weight", "rotate", "compressed_tensors", "without hadamard"});
  options_.method = "gptq";
  expect_refused(ErrorCode::unsupported, {"scale", "gptq:channel_scale=false"});
  options_.method = "rtn";
  EXPECT_TRUE(CheckpointPlan(options_).exact());
  options_.rules = {{"lm_head", "int4:group=16", {}, false}};
  expect_refused(ErrorCode::unsupported, {"lm_head.weight", "'int4:group=16'", "one format"});
}

TEST_F(CheckpointPlanning, FilesBesideTheTensorsAreCopied) {
  test::write_text(folder_ / "config.json", "{\"b\": 1,   \"a\": 2}");
  test::write_text(folder_ / "tokenizer.json", "{}");
  test::write_text(folder_ / "tokenizer.model", "x");
  test::write_text(folder_ / "merges.txt", "y");
  test::write_text(folder_ / "README.md", "z");
  test::write_text(folder_ / "hf_quant_config.json", "{}");
  test::write_text(folder_ / "pytorch_model.bin", "w");
  std::string names;
  const CheckpointPlan plan(options_);
  for (const PlannedFile& file : plan.files()) names += file.name + " ";
  EXPECT_EQ(names,
            "README.md config.json merges.txt model.safetensors tokenizer.json tokenizer.model ");
  ASSERT_EQ(plan.kept_out().size(), 2U);
  EXPECT_EQ(plan.kept_out()[0].name, "hf_quant_config.json");
  EXPECT_EQ(plan.kept_out()[0].reason, "describes another quantization");
  EXPECT_EQ(plan.kept_out()[1].name, "pytorch_model.bin");
  EXPECT_EQ(plan.kept_out()[1].reason, "weights");
  SerialExecutor executor;
  quantize_checkpoint(CheckpointPlan(options_), executor, {.out = folder_ / "made"});
  EXPECT_EQ(test::read_text(folder_ / "made/config.json"), "{\"b\": 1,   \"a\": 2}");
  EXPECT_EQ(test::read_text(folder_ / "made/merges.txt"), "y");
  options_.layout = "compressed_tensors";
  quantize_checkpoint(CheckpointPlan(options_), executor, {.out = folder_ / "other"});
  const std::string config = test::read_text(folder_ / "other/config.json");
  EXPECT_TRUE(config.starts_with("{\"b\": 1,   \"a\": 2, \"quantization_config\": {")) << config;
}

}  // namespace
}  // namespace nybble
