#include "src/io/layout/config_claims.h"

#include <gtest/gtest.h>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "tests/io/temporary_folder.h"

namespace nybble {
namespace {

using nlohmann::json;

void check(const std::string& spec, const json& config, std::size_t cols = 256) {
  const io::MemorySource source({}, config);
  io::check_config_claims(
      source, {"model.q_proj", {8, cols}, QuantizedMatrix(parse_format(spec), 8, cols), {}});
}

void expect_contradiction(const std::string& spec, const json& config, const std::string& words) {
  test::expect_error(ErrorCode::bad_file, {"model.q_proj", "quantization_config says", words},
                     [&] { check(spec, config); });
}

json group(const json& weights) { return {{"targets", {"Linear"}}, {"weights", weights}}; }

TEST(ConfigClaims, WhatToolsWriteAgrees) {
  check("int4:group=128", {{"bits", 4}, {"group_size", 128}, {"sym", true}});
  check("int4:group=128,zero_point=true", {{"w_bit", 4}, {"q_group_size", 128}});
  check("int4:group=row", {{"bits", 4}, {"group_size", -1}});
  check("int4:group=128", {{"group_size", 128}}, 200);  // the last group is short
  check("int4:group=128", json::object());
  const json channel = {{"num_bits", 4}, {"strategy", "channel"}, {"group_size", nullptr}};
  check("int4:group=row", {{"config_groups", {{"group_0", group(channel)}}}});
  // One of several groups is the layer's.
  const json int4 = {{"num_bits", 4}, {"group_size", 64}, {"symmetric", true}};
  const json int8 = {{"num_bits", 8}, {"group_size", 128}};
  check("int4:group=64", {{"config_groups", {{"a", group(int8)}, {"b", group(int4)}}}});
  check("nf4", {{"quant_method", "bitsandbytes"}, {"bnb_4bit_quant_type", "nf4"}});
  check("fp4_bnb", {{"quant_method", "bitsandbytes"}, {"bnb_4bit_quant_type", "fp4"}});
  check("int4:group=64", {{"ignore", {"lm_head", "re:.*gate$"}}});
  // Layers with settings of their own.
  check("int4:group=64", {{"group_size", 128}, {"dynamic", {{"+:.*q_proj", {{"bits", 4}}}}}});
}

TEST(ConfigClaims, ContradictionsAreRefusedWithBothReadings) {
  expect_contradiction("int4:group=64", {{"group_size", 128}},
                       "a group size of 128, its 256 columns have 4 groups");
  expect_contradiction("int4:group=64", {{"group_size", 128}, {"dynamic", {{"-:lm", json()}}}},
                       "a group size of 128");
  expect_contradiction("int4:group=128", {{"group_size", -1}}, "a group size of -1");
  expect_contradiction("int4:group=row", {{"q_group_size", 32}}, "a group size of 32");
  expect_contradiction("int4:group=128", {{"group_size", 1000000007}}, "1000000007");
  expect_contradiction("int4:group=128", {{"bits", 8}}, "8 bits, its codes have 4");
  expect_contradiction("int4:group=128,zero_point=true", {{"sym", true}}, "symmetric codes");
  const json int8 = {{"num_bits", 8}, {"group_size", 128}};
  expect_contradiction("int4:group=128", {{"config_groups", {{"group_0", group(int8)}}}}, "8 bits");
  expect_contradiction("nf4", {{"quant_method", "bitsandbytes"}, {"bnb_4bit_quant_type", "fp4"}},
                       "fp4, its tensors nf4");
  expect_contradiction("nf4", {{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}}, "8 bits");
  for (const char* key : {"ignore", "exclude_modules", "modules_to_not_convert"}) {
    expect_contradiction("int4:group=128", {{key, {"lm_head", "model.q_proj"}}}, "not quantized");
  }
}

TEST(ConfigClaims, FilesThatDescribeTheSameTensorsComplementEachOtherOrAreRefused) {
  const json config = {{"quant_method", "awq"}, {"version", "gemm"}, {"bits", 4}};
  const json merged = io::merge_configs(
      config, "config.json", {{"version", "GEMM"}, {"w_bit", 4}, {"damp", 1}}, "quant_config.json");
  EXPECT_EQ(
      merged,
      (json{{"quant_method", "awq"}, {"version", "gemm"}, {"bits", 4}, {"w_bit", 4}, {"damp", 1}}));
  test::expect_error(
      ErrorCode::bad_file,
      {"config.json", "\"checkpoint_format\"", "\"gptq\"", "quantize_config.json", "\"gptq_v2\""},
      [] {
        (void)io::merge_configs({{"checkpoint_format", "gptq"}}, "config.json",
                                {{"checkpoint_format", "gptq_v2"}}, "quantize_config.json");
      });
}

}  // namespace
}  // namespace nybble
