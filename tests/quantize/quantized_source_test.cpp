// quantize refuses what is quantized already, whoever says so: the tensors themselves, however
// large, or any of the files beside them.

#include <gtest/gtest.h>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/quantize/checkpoint.h"
#include "tests/io/layout/layout_support.h"
#include "tests/io/temporary_folder.h"
#include "tests/quantize/checkpoint_model.h"

namespace nybble {
namespace {

using test::expect_error;

void expect_refused(const std::filesystem::path& source, const std::vector<std::string>& parts) {
  CheckpointOptions options;
  options.source = source;
  options.format = "int4";
  std::vector<std::string> all = {"is quantized already"};
  all.insert(all.end(), parts.begin(), parts.end());
  expect_error(ErrorCode::bad_file, all, [&] { CheckpointPlan{options}; });
}

/// The first of some formats that the layout holds.
std::string held_by(const io::Layout& layout, const std::vector<std::size_t>& shape) {
  for (const char* spec :
       {"int4:group=128", "nf4", "nvfp4", "nvfp4:tensor=divisor", "mxfp4", "amxfp4"}) {
    try {
      layout.check(parse_format(spec), shape);
      return spec;
    } catch (const Error&) {
      continue;
    }
  }
  return {};
}

TEST(QuantizedSource, IsSeenInEveryLayoutWhateverItsSizeAndWithoutAConfig) {
  for (const auto& layout : io::layouts()) {
    SCOPED_TRACE(layout->name());
    for (const std::size_t rows : {std::size_t{8}, std::size_t{1032}}) {
      const std::string spec = held_by(*layout, {rows, 512});
      ASSERT_FALSE(spec.empty());
      const StoredLayer layer =
          test::random_layer("model.layers.0.mlp.experts.up_proj", spec, {rows, 512});
      const test::TemporaryFolder folder;
      SafetensorsWriter file(folder / "model.safetensors");
      const test::ModelTensor other{"model.layers.0.v_proj.weight", {64, 64}};
      file.add_owned(other.name, other.type, other.shape, test::model_bytes(other));
      io::WrittenLayer written = layout->write(layer);
      for (io::OwnedTensor& tensor : written.tensors) {
        file.add_owned(tensor.name, tensor.type, tensor.shape, std::move(tensor.bytes));
      }
      for (const auto& [key, value] : written.metadata) file.set_metadata(key, value);
      file.finish();
      for (const char* source : {"", "model.safetensors"}) {
        expect_refused(folder / source, {layer.name, "(layout ", "--requantize"});
      }
    }
  }
}

TEST(QuantizedSource, IsWhatAnyFileBesideTheTensorsSays) {
  const struct {
    const char *file, *text;
    std::vector<std::string> parts;
  } kCases[] = {
      {"config.json",
       R"({"quantization_config": {"quant_method": "fp8"}})",
       {"config.json (quantization_config, quant_method \"fp8\")"}},
      {"config.json", R"({"quantization_config": {"bits": 8}})", {"no quant_method"}},
      {"config.json",
       R"({"compression_config": {"quant_method": "compressed-tensors"}})",
       {"compression_config", "compressed-tensors"}},
      {"config.json",
       R"({"a": 1, "text_config": {"quantization_config": {"quant_method": "x"}}})",
       {"text_config.quantization_config", "\"x\""}},
      {"config.json",
       R"({"a": {"llm_config": {"compression_config": {}}}})",
       {"a.llm_config.compression_config"}},
      {"hf_quant_config.json",
       R"({"quantization": {"quant_algo": "FP8"}})",
       {"hf_quant_config.json"}},
      {"quantize_config.json", R"({"bits": 8, "group_size": 128})", {"quantize_config.json"}},
      {"quant_config.json", R"({"w_bit": 4})", {"quant_config.json"}},
  };
  for (const auto& row : kCases) {
    SCOPED_TRACE(row.text);
    const test::TemporaryFolder folder;
    test::write_model(folder / "model.safetensors", {{"a.weight", {64, 64}}});
    test::write_text(folder / row.file, row.text);
    expect_refused(folder.path(), row.parts);
    expect_refused(folder / "model.safetensors", row.parts);
  }
}

TEST(QuantizedSource, IsNotAModelWhoseFilesSayNothing) {
  for (const char* const config :
       {R"({"quantization_config": null})", R"({"text_config": {"compression_config": null}})",
        R"({"note": "quantization_config", "list": [{"quantization_config": {}}]})"}) {
    const test::TemporaryFolder folder;
    test::write_model(folder / "model.safetensors", {{"a.weight", {64, 64}}});
    test::write_text(folder / "config.json", config);
    test::write_text(folder / "hf_quant_config.json",
                     R"({"quantization": {"quant_algo": null, "kv_cache_quant_algo": "FP8"}})");
    CheckpointOptions options;
    options.source = folder.path();
    options.format = "int4";
    const CheckpointPlan plan(options);
    EXPECT_EQ(plan.tensors().size(), 1U) << config;
  }
}

}  // namespace
}  // namespace nybble
