#include "src/quantize/stacked_experts.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "nybble/quantize/checkpoint.h"
#include "tests/io/temporary_folder.h"
#include "tests/quantize/checkpoint_model.h"

namespace nybble {
namespace {

/// Experts that are one tensor, in a model whose hidden size is 64 and whose experts have 96.
class StackedExpertsPlanning : public testing::Test {
 protected:
  void SetUp() override {
    options_.source = folder_.path();
    options_.format = "int4";
    test::write_text(folder_ / "config.json", R"({"hidden_size": 64})");
  }
  /// The reasons of the tensors, '+' for what is quantized, and of one matrix behind them.
  std::string reasons(std::vector<test::ModelTensor> tensors) {
    tensors.push_back({"zz.weight", {64, 64}});
    test::write_model(folder_ / "model.safetensors", tensors);
    std::string out;
    const CheckpointPlan plan(options_);
    for (const PlannedTensor& tensor : plan.tensors()) {
      out += tensor.format ? "+|" : tensor.reason + "|";
    }
    return out;
  }

  test::TemporaryFolder folder_;
  CheckpointOptions options_;
};

TEST_F(StackedExpertsPlanning, AreQuantizedWhereRowsAreOutputs) {
  EXPECT_EQ(reasons({{"mlp.experts.down_proj", {4, 64, 96}},
                     {"mlp.experts.gate_up_proj", {4, 192, 64}},
                     {"moe.input_linear.weight", {4, 192, 64}},
                     {"moe.output_linear.weight", {4, 64, 96}}}),
            "+|+|+|+|+|");
  EXPECT_EQ(
      reasons({{"mlp.experts.down_proj", {4, 96, 64}}, {"mlp.experts.gate_up_proj", {4, 64, 192}}}),
      "3-D experts of [K, N]|3-D experts of [K, N]|+|");
  // Biases, convolutions and what nobody knows.
  EXPECT_EQ(reasons({{"conv.weight", {64, 64, 4}},
                     {"mlp.experts.other", {4, 96, 64}},
                     {"mlp.experts.up_proj", {4, 16, 64}}}),
            "3-D|3-D|fewer than 32 rows or columns|+|");
}

TEST_F(StackedExpertsPlanning, OfEqualSizesAreAsWhatIsBesideThem) {
  EXPECT_EQ(
      reasons({{"mlp.experts.down_proj", {4, 64, 64}}, {"mlp.experts.gate_up_proj", {4, 64, 128}}}),
      "3-D experts of [K, N]|3-D experts of [K, N]|+|");
  EXPECT_EQ(
      reasons({{"mlp.experts.down_proj", {4, 64, 64}}, {"mlp.experts.gate_up_proj", {4, 128, 64}}}),
      "+|+|+|");
  EXPECT_EQ(reasons({{"mlp.experts.down_proj", {4, 64, 64}}}),
            "3-D experts, inputs or outputs last|+|");
  EXPECT_EQ(reasons({{"mlp.experts.down_proj", {4, 32, 32}}}),
            "3-D experts, inputs or outputs last|+|");
}

TEST_F(StackedExpertsPlanning, StayWhereTheLayoutOrTheMethodHasNoPlaceForThem) {
  const std::vector<test::ModelTensor> experts = {{"mlp.experts.down_proj", {4, 64, 96}}};
  options_.layout = "gptq";
  EXPECT_EQ(reasons(experts), "3-D experts, layout gptq|+|");
  options_.layout = "gpt_oss";
  options_.format = "mxfp4";
  EXPECT_EQ(reasons(experts), "+|+|");
  options_.layout = "nybble";
  test::write_text(folder_ / "config.json", R"({"text_config": {"hidden_size": 64}})");
  EXPECT_EQ(reasons(experts), "+|+|");
  test::write_text(folder_ / "config.json", "{}");
  EXPECT_EQ(reasons(experts), "3-D experts, no hidden_size|+|");
}

}  // namespace
}  // namespace nybble
