#include <fmt/format.h>
#include <gtest/gtest.h>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/numeric/float16.h"
#include "src/io/layout/layout.h"
#include "tests/io/layout/layer_files.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

using io::WrittenLayer;
using nlohmann::json;
using Words = std::vector<std::uint32_t>;

const std::string kName = "model.layers.0.mlp.up_proj";

const io::Layout& gemm() { return io::find_layout("awq_gemm"); }
const io::Layout& gemv() { return io::find_layout("awq_gemv"); }

/// Codes [N][K], zero points and scales [N][G].
struct Plain {
  std::size_t rows, cols, group;
  std::vector<std::uint32_t> codes, zeros;
  std::vector<std::uint16_t> scales;

  [[nodiscard]] std::size_t groups() const { return cols / group; }
};

Plain random_plain(std::size_t rows, std::size_t cols, std::size_t group, std::uint64_t seed) {
  Random random(seed);
  Plain out{rows, cols, group, {}, {}, {}};
  for (std::size_t i = 0; i < rows * cols; ++i)
    out.codes.push_back(static_cast<std::uint32_t>(random.index(16)));
  for (std::size_t i = 0; i < rows * out.groups(); ++i) {
    out.zeros.push_back(static_cast<std::uint32_t>(random.index(16)));
    out.scales.push_back(Float16::from_float(random.normal()).bits);
  }
  return out;
}

/// By the definition: slot i of word c holds column 8c + order[i].
WrittenLayer gemm_file(const Plain& plain) {
  constexpr std::size_t kOrder[] = {0, 2, 4, 6, 1, 3, 5, 7};
  const std::size_t words = plain.rows / 8;
  Words qweight(plain.cols * words);
  Words qzeros(plain.groups() * words);
  std::vector<std::uint16_t> scales(plain.scales.size());
  for (std::size_t c = 0; c < words; ++c) {
    for (std::size_t i = 0; i < 8; ++i) {
      const std::size_t n = 8 * c + kOrder[i];
      for (std::size_t k = 0; k < plain.cols; ++k) {
        qweight[k * words + c] |= plain.codes[n * plain.cols + k] << (4 * i);
      }
      for (std::size_t g = 0; g < plain.groups(); ++g) {
        qzeros[g * words + c] |= plain.zeros[n * plain.groups() + g] << (4 * i);
        scales[g * plain.rows + n] = plain.scales[n * plain.groups() + g];
      }
    }
  }
  WrittenLayer out;
  out.tensors = {
      tensor_from(kName + ".qweight", TensorType::i32, {plain.cols, words}, qweight),
      tensor_from(kName + ".qzeros", TensorType::i32, {plain.groups(), words}, qzeros),
      tensor_from(kName + ".scales", TensorType::f16, {plain.groups(), plain.rows}, scales)};
  return out;
}

/// `width` words of zero points a row.
WrittenLayer gemv_file(const Plain& plain, std::size_t width) {
  Words qweight(plain.rows * plain.cols / 8);
  Words qzeros(plain.rows * width);
  std::vector<std::uint16_t> scales(plain.rows * width * 8);
  for (std::size_t i = 0; i < plain.codes.size(); ++i) {
    qweight[i / 8] |= plain.codes[i] << (4 * (i % 8));
  }
  for (std::size_t n = 0; n < plain.rows; ++n) {
    for (std::size_t g = 0; g < plain.groups(); ++g) {
      qzeros[n * width + g / 8] |= plain.zeros[n * plain.groups() + g] << (4 * (g % 8));
      scales[n * width * 8 + g] = plain.scales[n * plain.groups() + g];
    }
  }
  WrittenLayer out;
  out.tensors = {
      tensor_from(kName + ".qweight", TensorType::i32, {plain.rows, plain.cols / 8}, qweight),
      tensor_from(kName + ".qzeros", TensorType::i32, {plain.rows, width}, qzeros),
      tensor_from(kName + ".scales", TensorType::f16, {plain.rows, width * 8}, scales)};
  return out;
}

void expect_values(const StoredLayer& layer, const Plain& plain, const std::string& label) {
  std::size_t different = 0;
  for (std::size_t n = 0; n < plain.rows; ++n) {
    for (std::size_t k = 0; k < plain.cols; ++k) {
      const std::size_t at = n * plain.groups() + k / plain.group;
      const auto difference =
          static_cast<int>(plain.codes[n * plain.cols + k]) - static_cast<int>(plain.zeros[at]);
      const float expected = static_cast<float>(difference) * Float16{plain.scales[at]}.to_float();
      if (layer.weight.value(n, k) != expected) ++different;
    }
  }
  EXPECT_EQ(different, 0U) << label;
}

TEST(AwqGemmLayout, DecodesByTheDefinitionAndWritesTheSameBytes) {
  for (const std::size_t group : {16U, 32U, 64U, 128U, 256U, 512U, 1024U}) {
    for (const std::size_t rows : {8U, 136U, 264U}) {
      const Plain plain = random_plain(rows, 3 * group, group, rows);
      const WrittenLayer file = gemm_file(plain);
      const StoredLayer layer = read_back(gemm(), file);
      const std::string label = fmt::format("group {} N {}", group, rows);
      expect_values(layer, plain, label);
      expect_same_tensors(gemm().write(layer), file, label);
    }
  }
}

TEST(AwqGemmLayout, EveryFormatAndShapeItHoldsComesBack) {
  for (const std::string zero_point : {"false", "true"}) {
    for (const std::size_t group : {16U, 32U, 64U, 128U, 256U, 512U, 1024U}) {
      const std::string spec = fmt::format("int4:group={},zero_point={}", group, zero_point);
      expect_round_trip(gemm(), random_layer(spec, 24, group, group));
      expect_round_trip(gemm(), random_layer(spec, 8, 5 * group, group));
    }
    const std::string row = "int4:group=row,zero_point=" + zero_point;
    for (const std::size_t cols : {1U, 7U, 24U, 1025U}) {
      expect_round_trip(gemm(), random_layer(row, 16, cols, cols));
    }
    expect_round_trip(gemm(), random_layer(row, 16, 64, 1), {{"group_size", -1}});
  }
}

TEST(AwqGemmLayout, SymmetricLayersHaveZeroPointsOfEight) {
  WrittenLayer written = gemm().write(random_layer("int4", 8, 32, 1));
  EXPECT_EQ(word_at(tensor_of(written, kName + ".qzeros"), 0), 0x88888888U);
}

TEST(AwqGemmLayout, DamagedTensorsAreNamed) {
  const WrittenLayer good = gemm_file(random_plain(16, 64, 32, 1));
  const auto expect_bad = [&](const WrittenLayer& file, const std::vector<std::string>& parts) {
    SCOPED_TRACE(testing::PrintToString(parts));
    expect_error(ErrorCode::bad_file, parts, [&] { read_back(gemm(), file); });
  };
  for (const std::string part : {".qzeros", ".scales"}) {
    expect_bad(without(good, kName + part), {"no tensor", kName + part});
    expect_bad(with(good, zero_tensor(kName + part, TensorType::u8, {2, 16})), {kName + part});
    const TensorType type = part == ".scales" ? TensorType::f16 : TensorType::i32;
    for (const std::vector<std::size_t>& shape :
         std::vector<std::vector<std::size_t>>{{}, {2}, {2, 3}, {3, 16}, {0, 2}, {2, 2, 1}}) {
      expect_bad(with(good, zero_tensor(kName + part, type, shape)), {kName + part});
    }
  }
  expect_bad(with(good, zero_tensor(kName + ".scales", TensorType::bf16, {2, 16})),
             {kName + ".scales", "BF16", "F16 [G, 16]"});
  expect_bad(with(good, zero_tensor(kName + ".qweight", TensorType::i16, {64, 2})),
             {kName + ".qweight", "I16"});
  expect_bad(with(good, zero_tensor(kName + ".qweight", TensorType::i32, {64, 0})),
             {kName + ".qweight"});
  expect_error(ErrorCode::unsupported, {kName, "group=48"},
               [] { read_back(gemm(), gemm_file(random_plain(8, 96, 48, 1))); });
}

TEST(AwqLayouts, RefuseWhatTheyCannotHold) {
  for (const io::Layout* layout : {&gemm(), &gemv()}) {
    const auto expect_refused = [&](const std::string& spec, std::vector<std::size_t> shape,
                                    const std::string& part) {
      expect_error(ErrorCode::unsupported, {layout->name(), part},
                   [&] { layout->check(parse_format(spec), shape); });
    };
    layout->check(parse_format("int4:group=64,zero_point=true"), std::vector<std::size_t>{8, 128});
    expect_refused("mxfp4", {8, 64}, "mxfp4");
    expect_refused("int4:scale=bf16", {8, 64}, "scale=bf16");
    expect_refused("int4", {12, 64}, "N is 12");
    expect_refused("int4:group=64", {8, 96}, "K is 96, expected a multiple of 64");
    expect_refused("int4", {2, 8, 64}, "[2, 8, 64]");
    StoredLayer layer = random_layer("int4", 8, 64, 1);
    layer.transforms.permutation.source.resize(64);
    for (std::uint32_t k = 0; k < 64; ++k) layer.transforms.permutation.source[k] = 63 - k;
    expect_error(ErrorCode::unsupported, {kName, "a permutation", layout->name()},
                 [&] { (void)layout->write(layer); });
  }
  const auto gemv_refuses = [](const std::string& spec, std::vector<std::size_t> shape) {
    expect_error(ErrorCode::unsupported, {"awq_gemv", "expected 32, 64 or at least 128"},
                 [&] { gemv().check(parse_format(spec), shape); });
  };
  gemv_refuses("int4:group=16", {8, 64});
  gemv_refuses("int4:group=row", {8, 96});
}

TEST(AwqGemvLayout, DecodesByTheDefinitionAndWritesTheSameBytes) {
  // Group, K, and calculate_zeros_width of them, worked out by hand from ecosystem.md section 1.3.
  struct Case {
    std::size_t group, cols, width;
  };
  for (const Case& c : {Case{32, 32, 4}, Case{32, 1024, 4}, Case{32, 1056, 8}, Case{64, 64, 2},
                        Case{64, 1024, 2}, Case{64, 1088, 4}, Case{128, 128, 1}, Case{128, 1152, 2},
                        Case{256, 4096, 2}, Case{512, 4096, 1}}) {
    const Plain plain = random_plain(16, c.cols, c.group, c.cols);
    const WrittenLayer file = gemv_file(plain, c.width);
    const StoredLayer layer = read_back(gemv(), file);
    const std::string label = fmt::format("group {} K {}", c.group, c.cols);
    EXPECT_EQ(layer.weight.group, c.group) << label;
    expect_values(layer, plain, label);
    expect_same_tensors(gemv().write(layer), file, label);
  }
}

TEST(AwqGemvLayout, EveryFormatAndShapeItHoldsComesBack) {
  for (const std::string zero_point : {"false", "true"}) {
    for (const std::size_t group : {32U, 64U, 128U, 256U, 512U, 1024U}) {
      const std::string spec = fmt::format("int4:group={},zero_point={}", group, zero_point);
      const json config = {{"group_size", group}};
      for (const std::size_t count : {1U, 3U, 9U, 33U}) {
        expect_round_trip(gemv(), random_layer(spec, 8, count * group, count), config);
      }
    }
    for (const std::size_t cols : {32U, 64U, 128U, 200U, 4096U}) {
      expect_round_trip(gemv(), random_layer("int4:group=row,zero_point=" + zero_point, 8, cols, 1),
                        {{"group_size", -1}});
    }
  }
}

TEST(AwqGemvLayout, PaddingHidesTheGroupWhichScalesThenTell) {
  // K 512: one word of zero points for groups of 128, 256, 512 and the row.
  const auto group_of = [](std::size_t group, const json& config) {
    return read_back(gemv(), gemv_file(random_plain(8, 512, group, 1), 1), config).weight.group;
  };
  EXPECT_EQ(group_of(128, json::object()), 128U);
  EXPECT_EQ(group_of(256, json::object()), 256U);
  EXPECT_EQ(group_of(512, json::object()), 512U);
  EXPECT_EQ(group_of(256, {{"group_size", 256}}), 256U);
  expect_error(ErrorCode::bad_file, {kName + ".scales", "[0, 2]", "0 after 2 groups"}, [&] {
    group_of(128, {{"group_size", 256}});
  });
  const WrittenLayer empty = with(gemv_file(random_plain(8, 512, 128, 1), 1),
                                  zero_tensor(kName + ".scales", TensorType::f16, {8, 8}));
  expect_error(ErrorCode::bad_file, {kName, "fit no group", "[128, 256, 512, 0]"},
               [&] { read_back(gemv(), empty); });
}

TEST(AwqGemvLayout, PaddingIsZero) {
  const WrittenLayer good = gemv_file(random_plain(8, 96, 32, 1), 4);
  Words qzeros(8 * 4);
  qzeros[5 * 4 + 2] = 0x00100000;  // group 21 of row 5
  expect_error(ErrorCode::bad_file, {kName + ".qzeros", "[5, 21]", "0 after 3 groups"}, [&] {
    read_back(gemv(), with(good, tensor_from(kName + ".qzeros", TensorType::i32, {8, 4}, qzeros)));
  });
  std::vector<std::uint16_t> scales(8 * 32);
  scales[7 * 32 + 31] = 0x8000;  // -0 is no zero here: it would not come back
  expect_error(ErrorCode::bad_file, {kName + ".scales", "[7, 31]"}, [&] {
    read_back(gemv(), with(good, tensor_from(kName + ".scales", TensorType::f16, {8, 32}, scales)));
  });
}

TEST(AwqGemvLayout, DamagedTensorsAreNamed) {
  const WrittenLayer good = gemv_file(random_plain(16, 64, 32, 1), 4);
  const auto expect_bad = [&](const WrittenLayer& file, const std::vector<std::string>& parts) {
    SCOPED_TRACE(testing::PrintToString(parts));
    expect_error(ErrorCode::bad_file, parts, [&] { read_back(gemv(), file); });
  };
  for (const std::string part : {".qzeros", ".scales"}) {
    expect_bad(without(good, kName + part), {"no tensor", kName + part});
    expect_bad(with(good, zero_tensor(kName + part, TensorType::f32, {16, 4})), {kName});
  }
  expect_bad(with(good, zero_tensor(kName + ".scales", TensorType::f16, {16, 24})),
             {kName + ".scales", "[16, 24]", "[16, 32]"});
  expect_bad(with(good, zero_tensor(kName + ".qzeros", TensorType::i32, {8, 4})),
             {kName + ".qzeros", "[8, 4]", "[16, 4]"});
  expect_bad(gemv_file(random_plain(12, 64, 32, 1), 4), {kName + ".qweight", "multiple of 8 rows"});
}

TEST(AwqLayouts, AGroupIndexIsGptqs) {
  for (const io::Layout* layout : {&gemm(), &gemv()}) {
    WrittenLayer file = layout->write(random_layer("int4", 8, 32, 1));
    file.tensors.push_back(zero_tensor(kName + ".g_idx", TensorType::i32, {32}));
    expect_error(ErrorCode::bad_file, {kName + ".g_idx"}, [&] { read_back(*layout, file); });
  }
}

TEST(AwqLayouts, ConfigSaysWhatAutoAwqReads) {
  EXPECT_EQ(gemm()
                .config(parse_format("int4:group=128,zero_point=true"),
                        std::vector<std::string>{"lm_head"})
                .dump(),
            R"({"quant_method":"awq","bits":4,"group_size":128,"zero_point":true,)"
            R"("version":"gemm","modules_to_not_convert":["lm_head"]})");
  nlohmann::ordered_json config = gemv().config(parse_format("int4:group=row"), {});
  EXPECT_EQ(config.dump(), R"({"quant_method":"awq","bits":4,"group_size":-1,"zero_point":false,)"
                           R"("version":"gemv","modules_to_not_convert":[]})");
  gemv().amend(config, random_layer("int4:zero_point=true", 8, 32, 1));
  EXPECT_EQ(config["zero_point"], true);
}

}  // namespace
}  // namespace nybble::test
