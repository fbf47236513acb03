// Weights stored [inputs, outputs], as GPT-2's Conv1D has them.

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "nybble/error.h"
#include "nybble/io/compare.h"
#include "nybble/io/validate.h"
#include "nybble/quantize/checkpoint.h"
#include "src/quantize/transposed_rows.h"
#include "tests/io/temporary_folder.h"
#include "tests/quantize/checkpoint_model.h"
#include "tests/support/thread_executor.h"

namespace nybble {
namespace {

using test::expect_error;
using Shape = std::vector<std::size_t>;

/// [rows, cols] to [cols, rows].
std::vector<float> turned(const std::vector<float>& values, std::size_t rows, std::size_t cols) {
  std::vector<float> out(values.size());
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < cols; ++c) out[c * rows + r] = values[r * cols + c];
  }
  return out;
}

std::vector<test::ModelTensor> gpt2_tensors(const std::string& prefix) {
  const TensorType f32 = TensorType::f32;
  return {{prefix + "wte.weight", {96, 64}, f32},
          {prefix + "h.0.attn.c_attn.weight", {64, 192}, f32},
          {prefix + "h.0.attn.c_attn.bias", {192}, f32},
          {prefix + "h.0.attn.c_proj.weight", {64, 64}, f32},
          {prefix + "h.0.attn.c_proj.bias", {64}, f32},
          {prefix + "h.0.mlp.c_fc.weight", {64, 256}, f32},
          {prefix + "h.0.mlp.c_fc.bias", {256}, f32},
          {prefix + "h.0.mlp.c_proj.weight", {256, 64}, f32},
          {prefix + "h.0.mlp.c_proj.bias", {64}, f32}};
}

bool is_layer(const test::ModelTensor& tensor) {
  return tensor.shape.size() == 2 && tensor.name.find(".c_") != std::string::npos;
}

/// The tensors, layers turned by hand.
void write_turned(const std::filesystem::path& file,
                  const std::vector<test::ModelTensor>& tensors) {
  SafetensorsWriter writer(file);
  for (const test::ModelTensor& tensor : tensors) {
    std::vector<float> values = test::model_values(tensor);
    Shape shape = tensor.shape;
    if (is_layer(tensor)) {
      values = turned(values, shape[0], shape[1]);
      std::swap(shape[0], shape[1]);
    }
    const auto bytes = std::as_bytes(std::span(values));
    writer.add_owned(tensor.name, tensor.type, shape, {bytes.begin(), bytes.end()});
  }
  writer.finish();
}

class Transposed : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(folder_ / "gpt2");
    std::filesystem::create_directory(folder_ / "turned");
    test::write_model(folder_ / "gpt2/model.safetensors", gpt2_tensors(""));
    write_turned(folder_ / "turned/model.safetensors", gpt2_tensors(""));
    say(R"({"model_type": "gpt2"})");
    options_.format = "int4:group=32";
    options_.layout = "gptq";
  }
  void say(const std::string& config) { test::write_text(folder_ / "gpt2/config.json", config); }
  /// The model's tensors of `source`, quantized into `out`.
  std::string quantize(const std::string& source, const std::string& out) {
    options_.source = folder_ / source;
    quantize_checkpoint(CheckpointPlan(options_), executor_, {.out = folder_ / out});
    return test::read_text(folder_ / out / "model.safetensors");
  }
  std::map<std::string, bool> decisions() {
    options_.source = folder_ / "gpt2";
    std::map<std::string, bool> out;
    const CheckpointPlan plan(options_);
    for (const PlannedTensor& tensor : plan.tensors()) out[tensor.name] = tensor.transposed;
    return out;
  }

  test::TemporaryFolder folder_;
  SerialExecutor executor_;
  CheckpointOptions options_;
};

TEST_F(Transposed, GivesWhatTheTransposedModelGives) {
  for (const char* format : {"int4:group=32", "int4:group=32,zero_point=true"}) {
    SCOPED_TRACE(format);
    options_.format = format;
    const std::string out = std::string("made ") + format;
    const std::string made = quantize("gpt2", out);
    EXPECT_EQ(made, quantize("turned", std::string("other ") + format));
    const Checkpoint checkpoint(folder_ / out);
    EXPECT_EQ(checkpoint.at("h.0.attn.c_attn.qweight").shape, (Shape{8, 192}));
    EXPECT_EQ(checkpoint.at("h.0.attn.c_attn.scales").shape, (Shape{2, 192}));
    EXPECT_EQ(checkpoint.at("h.0.mlp.c_proj.qweight").shape, (Shape{32, 64}));
    EXPECT_EQ(checkpoint.at("wte.weight").shape, (Shape{96, 64}));
    validate(
        QuantizedCheckpoint(folder_ / out), {},
        [](const Finding& finding) { ADD_FAILURE() << finding.text(); }, executor_);
  }
  options_.layout = "nybble";
  // Read twice; searched; of all rows at once.
  for (const char* format : {"nvfp4", "amxfp4:search=mse", "nf4:double=true"}) {
    options_.format = format;
    EXPECT_EQ(quantize("gpt2", std::string("made ") + format),
              quantize("turned", std::string("other ") + format))
        << format;
  }
}

TEST_F(Transposed, IsCalibratedWithTheLayersInputs) {
  std::filesystem::create_directory(folder_ / "inputs");
  options_.calibration = folder_ / "inputs.safetensors";
  options_.layout = "nybble";
  options_.method = "awq+gptq";
  test::write_model(folder_ / "inputs.safetensors", {{"h.0.attn.c_attn", {300, 64}},
                                                     {"h.0.attn.c_proj", {300, 64}},
                                                     {"h.0.mlp.c_fc", {300, 64}},
                                                     {"h.0.mlp.c_proj", {300, 256}}});
  EXPECT_EQ(quantize("gpt2", "made"), quantize("turned", "other"));
  test::write_model(folder_ / "inputs.safetensors", {{"h.0.attn.c_attn", {300, 192}}});
  expect_error(ErrorCode::bad_shape, {"c_attn", "[tokens, 64]"}, [&] { decisions(); });
}

TEST_F(Transposed, IsComparedTheLayersWayRound) {
  quantize("gpt2", "made");
  for (const bool swapped : {false, true}) {
    const QuantizedCheckpoint a(folder_ / (swapped ? "made" : "gpt2"));
    const QuantizedCheckpoint b(folder_ / (swapped ? "gpt2" : "made"));
    std::size_t layers = 0;
    for (const TensorPair& pair : pair_tensors(a, b)) {
      const TensorDifference difference = compare(a, b, pair, executor_);
      ASSERT_TRUE(difference.error) << pair.name << difference.reason;
      if (difference.identical) continue;
      ++layers;
      EXPECT_GT(difference.error->sqnr_db, 18) << pair.name;
      EXPECT_LT(difference.error->sqnr_db, 25) << pair.name;
    }
    EXPECT_EQ(layers, 4U);
  }
  // Without model_type nothing is known of the square one; the others fit one way only.
  say("{}");
  const QuantizedCheckpoint a(folder_ / "gpt2");
  const QuantizedCheckpoint b(folder_ / "made");
  for (const TensorPair& pair : pair_tensors(a, b)) {
    const TensorDifference difference = compare(a, b, pair, executor_);
    EXPECT_EQ(!difference.error, pair.name == "h.0.attn.c_proj") << pair.name;
    if (!difference.error) {
      EXPECT_NE(difference.reason.find("model_type"), std::string::npos);
    } else {
      EXPECT_GT(difference.error->sqnr_db, 18) << pair.name;
    }
  }
}

TEST_F(Transposed, IsKnownByModelTypeOrBias) {
  const std::map<std::string, bool> all = {
      {"wte.weight", false},           {"h.0.attn.c_attn.weight", true},
      {"h.0.attn.c_attn.bias", false}, {"h.0.attn.c_proj.weight", true},
      {"h.0.attn.c_proj.bias", false}, {"h.0.mlp.c_fc.weight", true},
      {"h.0.mlp.c_fc.bias", false},    {"h.0.mlp.c_proj.weight", true},
      {"h.0.mlp.c_proj.bias", false}};
  for (const char* type : {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}) {
    say(R"({"model_type": ")" + std::string(type) + "\"}");
    EXPECT_EQ(decisions(), all) << type;
  }
  say(R"({"model_type": "vision-encoder-decoder", "decoder": {"model_type": "gpt2"}})");
  EXPECT_EQ(decisions(), all);

  // Nobody says it of the square one.
  for (const char* config : {"{}", R"({"model_type": "gpt_bigcode"})"}) {
    say(config);
    expect_error(ErrorCode::unsupported,
                 {"h.0.attn.c_proj.weight", "[64, 64]", "model_type",
                  "rule h.0.attn.c_proj=transposed=true"},
                 [&] { decisions(); });
  }
  options_.rules = {parse_rule("*.c_proj=transposed=true")};
  EXPECT_EQ(decisions(), all);
  options_.rules.push_back(parse_rule("*.attn.c_proj=transposed=false"));
  std::map<std::string, bool> but_one = all;
  but_one["h.0.attn.c_proj.weight"] = false;
  EXPECT_EQ(decisions(), but_one);
  options_.rules = {parse_rule("*.attn.c_proj=skip")};
  EXPECT_EQ(decisions(), but_one);
  options_.rules = {parse_rule("wte=transposed=true"), parse_rule("*.c_proj=skip")};
  expect_error(ErrorCode::bad_option, {"\"wte\"", "no tensor that can be quantized"},
               [&] { decisions(); });
}

TEST_F(Transposed, IsNotWhatHasABiasTheUsualWayRoundOrAnotherName) {
  const TensorType f32 = TensorType::f32;
  test::write_model(folder_ / "gpt2/model.safetensors", {{"h.0.mlp.c_fc.weight", {256, 64}, f32},
                                                         {"h.0.mlp.c_fc.bias", {256}, f32},
                                                         {"h.0.attn.q_proj.weight", {64, 64}, f32},
                                                         {"h.0.xattn.c_proj.weight", {64, 64}, f32},
                                                         {"attn.c_proj.weight", {64, 96}, f32}});
  EXPECT_EQ(decisions(), (std::map<std::string, bool>{{"h.0.mlp.c_fc.weight", false},
                                                      {"h.0.mlp.c_fc.bias", false},
                                                      {"h.0.attn.q_proj.weight", false},
                                                      {"h.0.xattn.c_proj.weight", false},
                                                      {"attn.c_proj.weight", true}}));
  say(R"({"model_type": "gpt_bigcode"})");
  EXPECT_FALSE(decisions()["attn.c_proj.weight"]);
}

TEST_F(Transposed, ARunIsNotResumedTheOtherWayRound) {
  options_.source = folder_ / "gpt2";
  std::atomic<bool> cancel = false;
  RunOptions run{.out = folder_ / "made"};
  run.cancel = &cancel;
  run.on_tensor = [&](const TensorDone& /*done*/) { cancel = true; };
  expect_error(ErrorCode::cancelled, {},
               [&] { quantize_checkpoint(CheckpointPlan(options_), executor_, run); });
  options_.rules = {parse_rule("h.0.attn.c_proj=transposed=false")};
  expect_error(ErrorCode::bad_option, {"h.0.attn.c_proj.weight"}, [&] {
    quantize_checkpoint(CheckpointPlan(options_), executor_,
                        {.out = folder_ / "made", .resume = true});
  });
}

TEST(TransposedRows, AreTheColumnsOfEveryMatrix) {
  constexpr std::size_t kMatrices = 3;
  constexpr std::size_t kInputs = 70;
  constexpr std::size_t kOutputs = 41;
  const test::TemporaryFolder folder;
  test::ThreadExecutor threads(3);
  for (const TensorType type :
       {TensorType::bf16, TensorType::f16, TensorType::f32, TensorType::f64}) {
    const test::ModelTensor tensor{"w", {kMatrices, kInputs, kOutputs}, type};
    test::write_model(folder / "w.safetensors", {tensor});
    const TensorFile file(folder / "w.safetensors");
    const TransposedRows rows(file, file.tensors()[0]);
    ASSERT_EQ(rows.rows(), kMatrices * kOutputs);
    ASSERT_EQ(rows.cols(), kInputs);
    const std::vector<float> values = test::model_values(tensor);
    std::vector<float> expected;
    for (std::size_t m = 0; m < kMatrices; ++m) {
      const auto begin = values.begin() + static_cast<std::ptrdiff_t>(m * kInputs * kOutputs);
      const std::vector<float> one = turned({begin, begin + kInputs * kOutputs}, kInputs, kOutputs);
      expected.insert(expected.end(), one.begin(), one.end());
    }
    EXPECT_EQ(all_values(rows, threads), expected);
    ReadBuffer buffer;
    for (const std::size_t begin : {std::size_t{0}, std::size_t{40}, std::size_t{122}}) {
      const std::size_t count = std::min<std::size_t>(rows.rows() - begin, 50);
      const MatrixView read = rows.read(begin, count, buffer);
      for (std::size_t i = 0; i < count * kInputs; ++i) {
        ASSERT_EQ(read.data[i], expected[begin * kInputs + i]) << begin << ' ' << i;
      }
    }
  }
}

}  // namespace
}  // namespace nybble
