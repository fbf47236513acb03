// compressed-tensors' FP4 layouts.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/format/golden.h"
#include "tests/io/layout/layout_support.h"
#include "tests/support/shared.h"

namespace nybble::test {
namespace {

using io::find_layout;
using io::OwnedTensor;
using io::WrittenLayer;
using Verdict = io::Evidence::Verdict;

void set_float(OwnedTensor& t, float value) { std::memcpy(t.bytes.data(), &value, 4); }

/// With a divisor, as a file has it.
StoredLayer nvfp4_layer(const Shape& shape, float divisor = 1234.5F) {
  StoredLayer layer = random_layer("m.q", "nvfp4", shape);
  layer.weight.tensor = {1 / divisor, 0, divisor};
  return layer;
}

TEST(CompressedTensorsNvfp4Layout, DecodesGoldenTensorsBitForBitAndWritesThemAgain) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  const io::Layout& layout = find_layout("compressed_tensors_nvfp4");
  std::size_t cases = 0;
  for (const GoldenCase& golden : golden_cases(root, "nvfp4")) {
    if (golden.variant != "compressed_tensors") continue;
    const std::vector<float> global = golden.floats("weight_global_scale");
    if (!std::isfinite(global[0]) || !std::isfinite(1 / global[0])) continue;
    SCOPED_TRACE(golden.label);
    const std::size_t rows = golden.rows;
    const std::size_t cols = golden.cols;
    const WrittenLayer file = {
        {tensor("a.weight_packed", TensorType::u8, {rows, cols / 2}, golden.bytes("weight_packed")),
         tensor("a.weight_scale", TensorType::f8_e4m3, {rows, cols / 16},
                golden.bytes("weight_scale_e4m3")),
         tensor("a.weight_global_scale", TensorType::f32, {1}, global)},
        {}};
    const StoredLayer layer = read_back(layout, file);
    expect_same_values(dequantized(layer.weight), golden.floats("dq"), golden.label);
    expect_same_tensors(layout.write(layer), file);
    ++cases;
  }
  EXPECT_GE(cases, 10U);
}

TEST(CompressedTensorsNvfp4Layout, RoundTripsLayersAndTheirInputScale) {
  const io::Layout& layout = find_layout("compressed_tensors_nvfp4");
  for (const Shape& shape : {Shape{1, 16}, Shape{3, 48}, Shape{7, 256}}) {
    StoredLayer layer = nvfp4_layer(shape);
    expect_kept(layout, layer);
    layer.input_scale = TensorScale{1 / 3.0F, 0, 3.0F};
    const WrittenLayer written = expect_kept(layout, layer);
    const StoredLayer read = read_back(layout, written);
    ASSERT_TRUE(read.input_scale.has_value());
    EXPECT_EQ(read.input_scale->scale, 1 / 3.0F);
    EXPECT_EQ(read.input_scale->divisor, 3.0F);
  }
}

TEST(CompressedTensorsNvfp4Layout, NamesTheTensorThatIsMissingOrOfAnotherTypeOrShape) {
  const io::Layout& layout = find_layout("compressed_tensors_nvfp4");
  StoredLayer layer = nvfp4_layer({4, 32});
  layer.input_scale = TensorScale{1 / 3.0F, 0, 3.0F};
  expect_tensors_are_checked(layout, layout.write(layer), {"m.q.weight_packed"},
                             {"m.q.input_global_scale"});
}

TEST(CompressedTensorsNvfp4Layout, RefusesScalesThatNoWriterMakes) {
  const io::Layout& layout = find_layout("compressed_tensors_nvfp4");
  const WrittenLayer written = layout.write(nvfp4_layer({4, 32}));
  for (const unsigned byte : {0x7FU, 0x80U, 0xB8U, 0xFFU}) {
    expect_damage(layout, written, "m.q.weight_scale", {"m.q.weight_scale", "[2, 1]"},
                  [&](OwnedTensor& t) { t.bytes[5] = static_cast<std::byte>(byte); });
  }
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {0.0F, -0.0F, -3.0F, infinity, -infinity, std::nanf(""), 1e-40F}) {
    expect_damage(layout, written, "m.q.weight_global_scale", {"m.q.weight_global_scale"},
                  [&](OwnedTensor& t) { set_float(t, value); });
  }
  WrittenLayer narrow = written;  // 24 codes a row
  narrow.tensors[0].shape = {4, 12};
  narrow.tensors[0].bytes.resize(48);
  expect_error(ErrorCode::bad_file, {"m.q.weight_packed", "24", "multiple of 16"},
               [&] { static_cast<void>(read_back(layout, narrow)); });
}

TEST(CompressedTensorsNvfp4Layout, RefusesWhatItCannotHold) {
  const io::Layout& layout = find_layout("compressed_tensors_nvfp4");
  const auto check = [&](const char* spec, const Shape& shape) {
    layout.check(parse_format(spec), shape);
  };
  check("nvfp4", {4, 32});
  check("nvfp4:search=4over6", {4, 32});
  for (const char* spec : {"int4", "mxfp4", "fp4:group=16", "amxfp4:group=16", "nf4"}) {
    expect_error(ErrorCode::unsupported, {"compressed_tensors_nvfp4", spec}, [&] {
      check(spec, {4, 32});
    });
  }
  expect_error(ErrorCode::unsupported, {"[4, 24]", "16"}, [&] { check("nvfp4", {4, 24}); });
  expect_error(ErrorCode::unsupported, {"[2, 4, 32]"}, [&] { check("nvfp4", {2, 4, 32}); });

  const auto refuses = [&](const char* what, auto change) {
    StoredLayer layer = nvfp4_layer({4, 32});
    change(layer);
    expect_error(ErrorCode::unsupported, {"m.q", what},
                 [&] { static_cast<void>(layout.write(layer)); });
  };
  refuses("channel scale",
          [](StoredLayer& l) { l.transforms.channel_scale.scale.assign(32, 1.0F); });
  refuses("rotation", [](StoredLayer& l) { l.transforms.hadamard.block = 32; });
  refuses("permutation", [](StoredLayer& l) {
    for (std::uint32_t k = 0; k < 32; ++k) l.transforms.permutation.source.push_back(k);
  });
  refuses("low-rank", [](StoredLayer& l) {
    l.transforms.low_rank = {1, std::vector<float>(32), std::vector<float>(4)};
  });
  refuses("sparse", [](StoredLayer& l) { l.transforms.sparse.row_start.assign(5, 0U); });
  refuses("bias", [](StoredLayer& l) { l.transforms.bias.assign(4, 0.0F); });
  refuses("0xc0", [](StoredLayer& l) { l.weight.scales[3] = 0xC0; });
  StoredLayer wrong = nvfp4_layer({4, 32});
  wrong.shape = {4, 16};
  expect_error(ErrorCode::bad_shape, {"m.q", "[4, 16]"},
               [&] { static_cast<void>(layout.write(wrong)); });
  wrong = nvfp4_layer({4, 32});
  wrong.weight.tensor.scale *= 2;
  expect_error(ErrorCode::bad_value, {"m.q.weight_global_scale", "1 / divisor"},
               [&] { static_cast<void>(layout.write(wrong)); });
}

/// The multiplier that modelopt_nvfp4 writes for it, or nothing where it refuses.
std::optional<float> crossed(const io::Layout& to, const StoredLayer& layer, const char* tensor) {
  try {
    WrittenLayer written = to.write(layer);
    float value = 0;
    std::memcpy(&value, find_tensor(written, layer.name + tensor)->bytes.data(), 4);
    return value;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    const std::string message = error.what();
    EXPECT_NE(message.find("cannot be held exactly"), std::string::npos) << message;
    EXPECT_NE(message.find("requantize"), std::string::npos) << message;
    EXPECT_NE(message.find("off by "), std::string::npos) << message;
    return std::nullopt;
  }
}

// Whole binades would take minutes in exceptions: every 1009th number, and those around 1.
std::vector<float> scales_to_cross() {
  std::vector<float> out;
  for (float x : {1.0F, 0x1p-8F, 0x1p20F}) {
    for (std::uint32_t step = 0; step < (1U << 24); step += step < 64 ? 1 : 1009) {
      out.push_back(x * (1 + static_cast<float>(step) * 0x1p-23F));
    }
  }
  return out;
}

TEST(Nvfp4TensorScale, CrossesToADivisorExactlyWhereThereIsOneAndElseSaysHowFarOffItIs) {
  const io::Layout& layout = find_layout("compressed_tensors_nvfp4");
  const io::Layout& modelopt = find_layout("modelopt_nvfp4");
  StoredLayer layer = random_layer("m.q", "nvfp4", {1, 16});
  std::size_t crossings = 0, refusals = 0;
  for (const float scale : scales_to_cross()) {
    layer.weight.tensor = {scale, 0, 0};
    float lowest = 1 / scale;  // of the neighbours that are looked at
    for (int i = 0; i < 8; ++i) lowest = std::nextafter(lowest, 0.0F);
    bool exists = false;
    for (int i = 0; i < 16 && !exists; ++i, lowest = std::nextafter(lowest, 1e38F)) {
      exists = 1 / lowest == scale;
    }
    const std::optional<float> divisor = crossed(layout, layer, ".weight_global_scale");
    ASSERT_EQ(divisor.has_value(), exists) << scale;
    if (!divisor) {
      ++refusals;
      continue;
    }
    ++crossings;
    ASSERT_EQ(1 / *divisor, scale);
    StoredLayer back = layer;  // as it is read, then written where it came from
    back.weight.tensor = {1 / *divisor, 0, *divisor};
    ASSERT_EQ(crossed(modelopt, back, ".weight_scale_2"), scale);
  }
  EXPECT_GT(crossings, refusals);
  EXPECT_GT(refusals, 1000U);
}

/// What is quantized for this layout can always be written in it, whatever the largest weight.
TEST(Nvfp4TensorScale, OfAWeightQuantizedWithADivisorIsAlwaysHeld) {
  const io::Layout& layout = find_layout("compressed_tensors_nvfp4");
  const AnyFormat format = layout.format_for(parse_format("nvfp4"));
  EXPECT_EQ(format.info().spec, "nvfp4:tensor=divisor");
  StoredLayer layer = random_layer("m.q", "nvfp4", {1, 16});
  std::vector<float> largest = scales_to_cross();
  largest.push_back(0);
  for (const float amax : largest) {
    layer.weight.tensor = format.tensor_scale(amax);
    const std::optional<float> divisor = crossed(layout, layer, ".weight_global_scale");
    ASSERT_TRUE(divisor.has_value()) << amax;
    EXPECT_EQ(1 / *divisor, layer.weight.tensor.scale) << amax;
    if (amax > 1e-30F) {
      EXPECT_NEAR(layer.weight.tensor.scale * 2688 / amax, 1, 0x1p-22) << amax;
    }
  }
  EXPECT_EQ(find_layout("modelopt_nvfp4").format_for(parse_format("nvfp4")).info().spec, "nvfp4");
}

TEST(Nvfp4TensorScale, CrossesToAMultiplierOnlyWhereTheDivisorComesBack) {
  const io::Layout& layout = find_layout("compressed_tensors_nvfp4");
  const io::Layout& modelopt = find_layout("modelopt_nvfp4");
  StoredLayer layer = random_layer("m.q", "nvfp4", {1, 16});
  std::size_t crossings = 0, refusals = 0;
  for (const float divisor : scales_to_cross()) {
    layer.weight.tensor = {1 / divisor, 0, divisor};
    const std::optional<float> multiplier = crossed(modelopt, layer, ".weight_scale_2");
    if (!multiplier) {
      ++refusals;
      continue;
    }
    ++crossings;
    ASSERT_EQ(*multiplier, 1 / divisor);
    StoredLayer back = layer;
    back.weight.tensor = {*multiplier, 0, 0};
    ASSERT_EQ(crossed(layout, back, ".weight_global_scale"), divisor);
  }
  EXPECT_GT(crossings, refusals);
  EXPECT_GT(refusals, 1000U);
}

TEST(Nvfp4TensorScale, TakesTheEndsOfF32) {
  const io::Layout& layout = find_layout("compressed_tensors_nvfp4");
  StoredLayer layer = random_layer("m.q", "nvfp4", {1, 16});
  using Limits = std::numeric_limits<float>;
  for (const float scale : {Limits::denorm_min(), Limits::min(), Limits::max(), 1e-39F}) {
    layer.weight.tensor = {scale, 0, 0};
    const std::optional<float> divisor = crossed(layout, layer, ".weight_global_scale");
    EXPECT_TRUE(!divisor || 1 / *divisor == scale) << scale;
  }
  for (const float scale : {0.0F, -1.0F, Limits::infinity(), Limits::quiet_NaN()}) {
    layer.weight.tensor = {scale, 0, 0};
    for (const char* to : {"compressed_tensors_nvfp4", "modelopt_nvfp4"}) {
      expect_error(ErrorCode::bad_value, {"m.q", "finite scale above 0"},
                   [&] { static_cast<void>(find_layout(to).write(layer)); });
    }
  }
}

TEST(CompressedTensorsMxfp4Layout, DecodesGoldenTensorsBitForBitAndWritesThemAgain) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  const io::Layout& layout = find_layout("compressed_tensors_mxfp4");
  std::size_t cases = 0;
  for (const char* format : {"mxfp4_compressed_tensors", "mxfp4_modelopt"}) {
    const bool own = std::string_view(format) == "mxfp4_compressed_tensors";
    for (const GoldenCase& golden : golden_cases(root, format)) {
      SCOPED_TRACE(golden.label);
      const Shape scale_shape = {golden.rows, golden.cols / 32};
      WrittenLayer file = {
          {tensor("a.b.weight_packed", TensorType::u8, {golden.rows, golden.cols / 2},
                  golden.bytes(own ? "weight_packed" : "packed")),
           tensor("a.b.weight_scale", TensorType::u8, scale_shape,
                  golden.bytes(own ? "weight_scale" : "scale_e8m0"))},
          {}};
      const StoredLayer layer = read_back(layout, file);
      expect_same_values(dequantized(layer.weight), golden.floats("dq"), golden.label);
      expect_same_tensors(layout.write(layer), file);
      // Scales with a type of their own are the same scales.
      file.tensors[1].type = TensorType::f8_e8m0;
      const StoredLayer typed = read_back(layout, file);
      expect_same_matrix(typed.weight, layer.weight);
      expect_same_tensors(layout.write(typed), file);
      ++cases;
    }
  }
  EXPECT_EQ(cases, 26U);
}

TEST(CompressedTensorsMxfp4Layout, RoundTripsLayersWithANanScale) {
  const io::Layout& layout = find_layout("compressed_tensors_mxfp4");
  for (const Shape& shape : {Shape{1, 32}, Shape{5, 96}}) {
    StoredLayer layer = random_layer("m.q", "mxfp4", shape);
    layer.weight.scales.back() = 255;
    expect_kept(layout, layer);
  }
  // The rule by which scales were chosen is not in the file.
  const StoredLayer even = random_layer("m.q", "mxfp4:rule=even", {2, 64});
  const StoredLayer read = read_back(layout, layout.write(even));
  EXPECT_EQ(read.weight.format.info().spec, "mxfp4");
  EXPECT_EQ(read.weight.codes, even.weight.codes);
}

TEST(CompressedTensorsMxfp4Layout, NamesTheTensorThatIsMissingOrOfAnotherTypeOrShape) {
  const io::Layout& layout = find_layout("compressed_tensors_mxfp4");
  expect_tensors_are_checked(layout, layout.write(random_layer("m.q", "mxfp4", {4, 64})),
                             {"m.q.weight_packed"}, {});
  WrittenLayer narrow = layout.write(random_layer("m.q", "mxfp4", {4, 32}));
  narrow.tensors[0].shape = {4, 8};
  narrow.tensors[0].bytes.resize(32);
  expect_error(ErrorCode::bad_file, {"m.q.weight_packed", "16", "multiple of 32"},
               [&] { static_cast<void>(read_back(layout, narrow)); });
}

TEST(CompressedTensorsMxfp4Layout, RefusesWhatItCannotHold) {
  const io::Layout& layout = find_layout("compressed_tensors_mxfp4");
  for (const char* spec : {"int4", "nvfp4", "fp4", "amxfp4", "mxfp4:group=16", "mxfp4:group=64"}) {
    expect_error(ErrorCode::unsupported, {"compressed_tensors_mxfp4", spec}, [&] {
      layout.check(parse_format(spec), Shape{4, 128});
    });
  }
  expect_error(ErrorCode::unsupported, {"[4, 48]", "32"}, [&] {
    layout.check(parse_format("mxfp4"), Shape{4, 48});
  });
}

/// What `layout` says of its own tensors beside a config.
io::Evidence judged(const io::Layout& layout, const WrittenLayer& written, const json& config) {
  const io::MemorySource source(written, config);
  return layout.judge(source, layout.find(source));
}

TEST(CompressedTensorsLayouts, AreJudgedByTheirConfig) {
  struct Row {
    const char* layout;
    const char* format;
    StoredLayer layer;
  };
  const std::vector<Row> rows = {
      {"compressed_tensors", "pack-quantized", random_layer("m", "int4:group=128", {8, 128})},
      {"compressed_tensors_nvfp4", "nvfp4-pack-quantized", nvfp4_layer({4, 32})},
      {"compressed_tensors_mxfp4", "mxfp4-pack-quantized", random_layer("m", "mxfp4", {4, 32})}};
  for (const Row& row : rows) {
    SCOPED_TRACE(row.layout);
    const io::Layout& layout = find_layout(row.layout);
    const WrittenLayer written = layout.write(row.layer);
    const auto verdict = [&](const json& config) { return judged(layout, written, config).config; };
    const json own = layout.config(row.layer.weight.format, std::vector<std::string>{"lm_head"});
    EXPECT_EQ(own.at("format"), row.format);
    EXPECT_EQ(own.at("ignore"), json::array({"lm_head"}));
    EXPECT_EQ(own.at("config_groups").at("group_0").at("targets"), json::array({"Linear"}));
    EXPECT_EQ(own.at("config_groups").at("group_0").at("weights").at("num_bits"), 4);
    EXPECT_EQ(verdict(own), Verdict::in_favour);
    EXPECT_EQ(verdict(json::object()), Verdict::silent);
    EXPECT_EQ(verdict({{"quant_method", 3}}), Verdict::silent);
    EXPECT_EQ(verdict({{"quant_method", "gptq"}}), Verdict::against);
    EXPECT_EQ(verdict({{"quant_method", "compressed-tensors"}}), Verdict::silent);
    EXPECT_EQ(verdict({{"quant_method", "compressed-tensors"}, {"format", "float-quantized"}}),
              Verdict::against);
    json mixed = own;
    mixed["format"] = "mixed-precision";
    EXPECT_EQ(verdict(mixed), Verdict::against);
    mixed["config_groups"]["group_0"]["format"] = row.format;
    EXPECT_EQ(verdict(mixed), Verdict::in_favour);
    mixed["config_groups"] = json::array({1, "x", nullptr});
    EXPECT_EQ(verdict(mixed), Verdict::against);
    const io::Evidence evidence = judged(layout, written, own);
    EXPECT_EQ(evidence.data, Verdict::in_favour);
    EXPECT_FALSE(evidence.data_says.empty());

    // Found among all layouts by names and shapes alone, or with the config.
    for (const json& config : {json::object(), own}) {
      const io::MemorySource source(written, config);
      std::vector<std::string> reasons;
      const std::vector<io::FoundModule> found = io::detect(source, "", reasons);
      ASSERT_EQ(found.size(), 1U);
      EXPECT_EQ(found[0].layout->name(), row.layout);
      EXPECT_EQ(reasons.size(), 1U);
    }
    const io::MemorySource wrong(written, {{"quant_method", "gptq"}});
    expect_error(ErrorCode::bad_file, {row.layer.name, row.layout, "gptq", "contradict"}, [&] {
      std::vector<std::string> reasons;
      static_cast<void>(io::detect(wrong, "", reasons));
    });
  }
}

TEST(CompressedTensorsLayouts, RefuseRotationsThatTheRuntimeMustApply) {
  for (const char* name :
       {"compressed_tensors", "compressed_tensors_nvfp4", "compressed_tensors_mxfp4"}) {
    const io::Layout& layout = find_layout(name);
    const std::string kind = name;
    const WrittenLayer written =
        layout.write(kind.ends_with("nvfp4")   ? nvfp4_layer({4, 32})
                     : kind.ends_with("mxfp4") ? random_layer("m", "mxfp4", {4, 32})
                                               : random_layer("m", "int4", {4, 32}));
    const json hadamard = {{"u", {{"type", "hadamard"}}}};
    for (const json& transforms :
         {json{{"config_groups", hadamard}}, json("hadamard"), json::array({1})}) {
      expect_error(ErrorCode::unsupported, {"transform_config"}, [&] {
        static_cast<void>(read_back(layout, written, {{"transform_config", transforms}}));
      });
    }
    for (const json& none :
         {json(nullptr), json::object(), json{{"config_groups", json::object()}}}) {
      static_cast<void>(read_back(layout, written, {{"transform_config", none}}));
    }
  }
}

TEST(CompressedTensorsNvfp4Layout, SaysWhichTensorScaleLooksLikeAMultiplier) {
  const io::Layout& layout = find_layout("compressed_tensors_nvfp4");
  const io::Evidence sound = judged(layout, layout.write(nvfp4_layer({4, 32}, 2000)), {});
  EXPECT_EQ(sound.data_says.find("suspicious"), std::string::npos) << sound.data_says;
  const io::Evidence inverted = judged(layout, layout.write(nvfp4_layer({4, 32}, 1e-3F)), {});
  EXPECT_NE(inverted.data_says.find("suspicious"), std::string::npos);
  EXPECT_NE(inverted.data_says.find("m.q.weight_global_scale"), std::string::npos);
  EXPECT_EQ(inverted.data, Verdict::against);
}

TEST(CompressedTensorsLayouts, ClaimNoTensorOfTheOthers) {
  const auto finds = [](const char* name, WrittenLayer written) {
    const io::MemorySource source(std::move(written));
    return find_layout(name).find(source).size();
  };
  const std::vector<std::uint8_t> bytes(64, 1);
  const auto file = [&](const char* name, TensorType type, const Shape& shape) {
    return WrittenLayer{{tensor(name, type, shape, bytes)}, {}};
  };
  for (const char* name : {"compressed_tensors", "compressed_tensors_nvfp4",
                           "compressed_tensors_mxfp4", "modelopt_nvfp4", "gpt_oss", "nybble"}) {
    EXPECT_EQ(finds(name, file("weight_packed", TensorType::u8, {4, 16})), 0U);
    EXPECT_EQ(finds(name, file(".weight_packed", TensorType::u8, {4, 16})), 0U);
    EXPECT_EQ(finds(name, file("a.weight_packed", TensorType::i8, {4, 16})), 0U);
    EXPECT_EQ(finds(name, file("a.weight_packed", TensorType::u8, {64})), 0U);
    EXPECT_EQ(finds(name, file("a.weight", TensorType::u8, {64, 1})), 0U);
    EXPECT_EQ(finds(name, WrittenLayer{{{"a.weight_packed", TensorType::u8, {0, 16}, {}}}, {}}),
              0U);
  }
  // Without scales it is somebody's layer all the same, and reading says what is missing.
  EXPECT_EQ(finds("compressed_tensors_mxfp4", file("a.weight_packed", TensorType::u8, {4, 16})),
            1U);
}

}  // namespace
}  // namespace nybble::test
