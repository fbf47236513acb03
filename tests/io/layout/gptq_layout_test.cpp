#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

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

const io::Layout& gptq(bool v2) { return io::find_layout(v2 ? "gptq_v2" : "gptq"); }

/// K x N codes, G x N zero points and scales, the group of each k: as the papers write them.
struct Plain {
  std::size_t rows, cols, groups;
  std::vector<std::uint32_t> codes, zeros, group_of;
  std::vector<std::uint16_t> scales;
};

Plain random_plain(std::size_t rows, std::size_t cols, std::size_t group, std::uint64_t seed) {
  Random random(seed);
  Plain out{rows, cols, (cols + group - 1) / group, {}, {}, {}, {}};
  for (std::size_t i = 0; i < rows * cols; ++i)
    out.codes.push_back(static_cast<std::uint32_t>(random.index(16)));
  for (std::size_t i = 0; i < rows * out.groups; ++i) {
    out.zeros.push_back(static_cast<std::uint32_t>(random.index(16)));
    out.scales.push_back(Float16::from_float(random.normal()).bits);
  }
  for (std::size_t k = 0; k < cols; ++k)
    out.group_of.push_back(static_cast<std::uint32_t>(k / group));
  return out;
}

/// The columns shuffled among groups: what act-order makes of g_idx.
void shuffle_groups(Plain& plain, std::uint64_t seed) {
  Random random(seed);
  for (std::size_t k = plain.cols; k > 1; --k) {
    std::swap(plain.group_of[k - 1], plain.group_of[random.index(k)]);
  }
}

/// The tensors by the definition of ecosystem.md section 1.2, one nibble after another.
WrittenLayer file_of(const Plain& plain, bool v2) {
  Words qweight(plain.cols / 8 * plain.rows);
  for (std::size_t k = 0; k < plain.cols; ++k) {
    for (std::size_t n = 0; n < plain.rows; ++n) {
      qweight[k / 8 * plain.rows + n] |= plain.codes[k * plain.rows + n] << (4 * (k % 8));
    }
  }
  Words qzeros(plain.groups * plain.rows / 8);
  for (std::size_t i = 0; i < plain.zeros.size(); ++i) {
    qzeros[i / 8] |= plain.zeros[i] << (4 * (i % 8));
  }
  for (std::uint32_t& word : qzeros) word -= v2 ? 0 : 0x11111111;
  WrittenLayer out;
  out.tensors = {
      tensor_from(kName + ".g_idx", TensorType::i32, {plain.cols}, plain.group_of),
      tensor_from(kName + ".qweight", TensorType::i32, {plain.cols / 8, plain.rows}, qweight),
      tensor_from(kName + ".qzeros", TensorType::i32, {plain.groups, plain.rows / 8}, qzeros),
      tensor_from(kName + ".scales", TensorType::f16, {plain.groups, plain.rows}, plain.scales)};
  return out;
}

/// (q - zero) * scale of the column's group.
float value_of(const Plain& plain, std::size_t n, std::size_t k) {
  const std::size_t at = plain.group_of[k] * plain.rows + n;
  const auto difference =
      static_cast<int>(plain.codes[k * plain.rows + n]) - static_cast<int>(plain.zeros[at]);
  return static_cast<float>(difference) * Float16{plain.scales[at]}.to_float();
}

void expect_values(const StoredLayer& layer, const Plain& plain, const std::string& label) {
  const auto& source = layer.transforms.permutation.source;
  std::size_t different = 0;
  for (std::size_t n = 0; n < plain.rows; ++n) {
    for (std::size_t j = 0; j < plain.cols; ++j) {
      const std::size_t k = source.empty() ? j : source[j];
      if (layer.weight.value(n, j) != value_of(plain, n, k)) ++different;
    }
  }
  EXPECT_EQ(different, 0U) << label;
}

TEST(GptqLayout, DecodesByTheDefinitionAndWritesTheSameBytes) {
  for (const bool v2 : {false, true}) {
    for (const std::size_t group : {16U, 32U, 64U, 128U, 256U, 512U, 1024U}) {
      for (const std::size_t cols : {group, 2 * group, 3 * group + 8}) {
        const Plain plain = random_plain(24, cols, group, cols);
        const WrittenLayer file = file_of(plain, v2);
        const StoredLayer layer = read_back(gptq(v2), file);
        const std::string label = fmt::format("v2 {} group {} K {}", v2, group, cols);
        EXPECT_EQ(layer.weight.format.info().spec,
                  parse_format(fmt::format("int4:group={},zero_point=true", group)).info().spec);
        EXPECT_TRUE(layer.transforms.permutation.source.empty()) << label;
        expect_values(layer, plain, label);
        expect_same_tensors(gptq(v2).write(layer), file, label);
      }
    }
  }
}

TEST(GptqLayout, ActOrderIsAPermutationAndGoesBackToItsGIdx) {
  for (const std::size_t cols : {128U, 136U, 320U}) {
    Plain plain = random_plain(16, cols, 64, cols);
    shuffle_groups(plain, 3);
    const WrittenLayer file = file_of(plain, false);
    const StoredLayer layer = read_back(gptq(false), file);
    const auto& source = layer.transforms.permutation.source;
    ASSERT_EQ(source.size(), cols);
    EXPECT_EQ(std::set<std::uint32_t>(source.begin(), source.end()).size(), cols);
    expect_values(layer, plain, "act-order");
    expect_same_tensors(gptq(false).write(layer), file, "act-order");
    nlohmann::ordered_json ours = gptq(false).config(layer.weight.format, {});
    EXPECT_EQ(ours["desc_act"], false);
    gptq(false).amend(ours, layer);
    EXPECT_EQ(ours["desc_act"], true);
  }
}

TEST(GptqLayout, APermutationInAnyOrderWithinAGroupIsTheSameLayerReadBack) {
  StoredLayer layer = random_layer("int4:group=16,zero_point=true", 8, 48, 4);
  auto& source = layer.transforms.permutation.source;
  source.resize(48);
  std::iota(source.begin(), source.end(), 0U);
  std::reverse(source.begin(), source.end());
  const StoredLayer read = read_back(gptq(true), gptq(true).write(layer));
  const auto column = [](const StoredLayer& stored, std::size_t k) {
    const auto& order = stored.transforms.permutation.source;
    const auto at = std::find(order.begin(), order.end(), k) - order.begin();
    std::vector<float> values;
    for (std::size_t n = 0; n < 8; ++n)
      values.push_back(stored.weight.value(n, static_cast<std::size_t>(at)));
    return values;
  };
  layer.weight.scales = read.weight.scales;  // random bits hold NaN
  for (std::size_t k = 0; k < 48; ++k) {
    for (std::size_t n = 0; n < 8; ++n) {
      const float a = column(layer, k)[n];
      const float b = column(read, k)[n];
      EXPECT_TRUE(a == b || (a != a && b != b)) << k << ' ' << n;
    }
  }
}

TEST(GptqLayout, EveryFormatAndShapeItHoldsComesBack) {
  for (const bool v2 : {false, true}) {
    for (const std::string zero_point : {"false", "true"}) {
      for (const std::string scale : {"f16", "bf16", "f32"}) {
        for (const std::string group : {"16", "32", "64", "128", "256", "512", "1024"}) {
          for (const std::size_t cols : {2048U, 2056U, 3000U}) {
            expect_round_trip(gptq(v2), random_layer("int4:group=" + group + ",zero_point=" +
                                                         zero_point + ",scale=" + scale,
                                                     8, cols, cols));
          }
        }
        const std::string row = "int4:group=row,zero_point=" + zero_point + ",scale=" + scale;
        expect_round_trip(gptq(v2), random_layer(row, 40, 24, 9));
        expect_round_trip(gptq(v2), random_layer(row, 8, 8, 9));
        expect_round_trip(gptq(v2), random_layer(row, 16, 128, 9), {{"group_size", -1}});
      }
    }
  }
}

TEST(GptqLayout, EveryWordOfZeroPointsSurvives) {
  // All pairs of neighbouring bytes in the low and the high half, so all borrows between them:
  // 65536 words, once as v1, where 0x...f is a zero point of 0 and carries, once as v2.
  constexpr std::size_t kRows = 8 * 1024;
  constexpr std::size_t kGroups = 64;
  Words qzeros(kGroups * kRows / 8);
  ASSERT_EQ(qzeros.size(), 65536U);
  for (std::uint32_t i = 0; i < qzeros.size(); ++i) qzeros[i] = i | (0xffffU - i) << 16;
  WrittenLayer file;
  file.tensors = {zero_tensor(kName + ".qweight", TensorType::i32, {kGroups * 2, kRows}),
                  tensor_from(kName + ".qzeros", TensorType::i32, {kGroups, kRows / 8}, qzeros),
                  zero_tensor(kName + ".scales", TensorType::f16, {kGroups, kRows})};
  for (const bool v2 : {false, true}) {
    const StoredLayer layer = read_back(gptq(v2), file);
    ASSERT_EQ(layer.weight.zero_points.size(), kRows * kGroups);
    std::size_t different = 0;
    for (std::size_t g = 0; g < kGroups; ++g) {
      for (std::size_t n = 0; n < kRows; ++n) {
        const std::uint32_t word = qzeros[g * kRows / 8 + n / 8] + (v2 ? 0 : 0x11111111);
        const std::uint32_t zero = word >> (4 * (n % 8)) & 15;
        if (layer.weight.zero_points[n * kGroups + g] != zero) ++different;
      }
    }
    EXPECT_EQ(different, 0U);
    expect_same_tensors(gptq(v2).write(layer), file, v2 ? "v2" : "v1");
  }
}

TEST(GptqLayout, EveryZeroPointIsStoredMinusOneInV1) {
  for (std::uint8_t zero = 0; zero < 16; ++zero) {
    StoredLayer layer = random_layer("int4:group=16,zero_point=true", 8, 16, 1);
    // The highest nibble alone: nothing above it to borrow from.
    layer.weight.zero_points = {1, 1, 1, 1, 1, 1, 1, zero};
    WrittenLayer v1 = gptq(false).write(layer);
    WrittenLayer v2 = gptq(true).write(layer);
    EXPECT_EQ(word_at(tensor_of(v1, kName + ".qzeros"), 0), ((zero - 1U) & 15) << 28);
    EXPECT_EQ(word_at(tensor_of(v2, kName + ".qzeros"), 0), 0x01111111U | zero * 0x10000000U);
    EXPECT_EQ(read_back(gptq(false), v1).weight.zero_points, layer.weight.zero_points);
    EXPECT_EQ(read_back(gptq(true), v2).weight.zero_points, layer.weight.zero_points);
  }
}

TEST(GptqLayout, SymmetricLayersHaveZeroPointsOfEight) {
  const StoredLayer layer = random_layer("int4:group=32", 16, 64, 1);
  for (const bool v2 : {false, true}) {
    WrittenLayer written = gptq(v2).write(layer);
    const io::OwnedTensor& zeros = tensor_of(written, kName + ".qzeros");
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(word_at(zeros, i), v2 ? 0x88888888U : 0x77777777U);
    }
  }
}

TEST(GptqLayout, AGIdxOfWiderNumbersIsWrittenAgainAsOne) {
  Plain plain = random_plain(8, 64, 32, 1);
  shuffle_groups(plain, 3);
  const WrittenLayer narrow = file_of(plain, true);
  const std::vector<std::int64_t> wide(plain.group_of.begin(), plain.group_of.end());
  const WrittenLayer file =
      with(narrow, tensor_from(kName + ".g_idx", TensorType::i64, {64}, wide));
  const StoredLayer layer = read_back(gptq(true), file);
  expect_same_layer(layer, read_back(gptq(true), narrow), "as I32");
  expect_same_tensors(gptq(true).write(layer), file, "as I64");
}

TEST(GptqLayout, AFileWithoutGIdxIsWrittenWithoutOne) {
  const WrittenLayer whole = file_of(random_plain(8, 64, 32, 1), true);
  const WrittenLayer file = without(whole, kName + ".g_idx");
  const StoredLayer layer = read_back(gptq(true), file);
  EXPECT_EQ(layer.weight.group, 32U);
  expect_same_tensors(gptq(true).write(layer), file, "without g_idx");
  expect_same_tensors(gptq(true).write(read_back(gptq(true), whole)), whole, "with g_idx");
}

TEST(GptqLayout, WithoutGIdxTheGroupIsTheOnlyOneThatFits) {
  const auto group_of = [](std::size_t cols, std::size_t group, const json& config) {
    const WrittenLayer file =
        without(file_of(random_plain(8, cols, group, 1), true), kName + ".g_idx");
    return read_back(gptq(true), file, config).weight.format.info().group;
  };
  EXPECT_EQ(group_of(136, 64, json::object()), 64U);
  EXPECT_EQ(group_of(4096, 1024, json::object()), 1024U);
  EXPECT_EQ(group_of(128, 128, json::object()), 128U);
  EXPECT_EQ(group_of(128, 128, {{"group_size", -1}}), 0U);
  EXPECT_EQ(group_of(120, 120, {{"group_size", 128}}), 0U);
  EXPECT_EQ(group_of(192, 128, {{"group_size", 128}}), 128U);
  // 192 columns in two groups: of 96 or of 128 and 64.
  expect_error(ErrorCode::unsupported, {"group=96"}, [&] { group_of(192, 128, json::object()); });
  expect_error(ErrorCode::unsupported, {"group=96"}, [&] { group_of(192, 96, json::object()); });
}

TEST(GptqLayout, GroupsThatNoFormatHasAreRefusedByName) {
  const auto read = [](const WrittenLayer& file) { return read_back(gptq(true), file); };
  expect_error(ErrorCode::unsupported, {kName, "group=48", "16|64|128"},
               [&] { read(file_of(random_plain(8, 96, 48, 1), true)); });
  Plain uneven = random_plain(8, 64, 32, 1);
  uneven.group_of[0] = 1;
  expect_error(ErrorCode::unsupported, {kName, "group 0 31 columns and group 1 33"},
               [&] { read(file_of(uneven, true)); });
  Plain one = random_plain(8, 64, 32, 1);
  one.group_of.assign(64, 0);
  expect_error(ErrorCode::unsupported, {kName, "group 0 64 columns and group 1 0"},
               [&] { read(file_of(one, true)); });
  Plain beyond = random_plain(8, 64, 32, 1);
  beyond.group_of[5] = 2;
  expect_error(ErrorCode::bad_file, {kName + ".g_idx", "has 2 at 5", "0 to 1"},
               [&] { read(file_of(beyond, true)); });
  beyond.group_of[5] = 0xffffffff;
  expect_error(ErrorCode::bad_file, {kName + ".g_idx", "has -1 at 5"},
               [&] { read(file_of(beyond, true)); });
}

TEST(GptqLayout, DamagedTensorsAreNamed) {
  const WrittenLayer good = file_of(random_plain(16, 64, 32, 1), false);
  const auto expect_bad = [&](const WrittenLayer& file, const std::vector<std::string>& parts) {
    SCOPED_TRACE(testing::PrintToString(parts));
    expect_error(ErrorCode::bad_file, parts, [&] { read_back(gptq(false), file); });
  };
  for (const std::string part : {".qzeros", ".scales"}) {
    expect_bad(without(good, kName + part), {"no tensor", kName + part});
    for (const TensorType type : {TensorType::u8, TensorType::f64, TensorType::i64}) {
      expect_bad(with(good, zero_tensor(kName + part, type, {2, 16})), {kName + part});
    }
    for (const std::vector<std::size_t>& shape :
         std::vector<std::vector<std::size_t>>{{}, {32}, {2, 8}, {2, 17}, {0, 16}, {2, 16, 1}}) {
      const TensorType type = part == ".scales" ? TensorType::f16 : TensorType::i32;
      expect_bad(with(good, zero_tensor(kName + part, type, shape)), {kName + part});
    }
  }
  expect_bad(with(good, zero_tensor(kName + ".qweight", TensorType::u8, {8, 16})),
             {kName + ".qweight", "U8"});
  expect_bad(with(good, zero_tensor(kName + ".qweight", TensorType::i32, {128})),
             {kName + ".qweight", "[128]"});
  expect_bad(with(good, zero_tensor(kName + ".qweight", TensorType::i32, {0, 16})),
             {kName + ".qweight", "[0, 16]"});
  expect_bad(with(good, zero_tensor(kName + ".qweight", TensorType::i32, {8, 17})), {kName});
  expect_bad(with(good, zero_tensor(kName + ".scales", TensorType::f16, {65, 16})),
             {kName + ".scales", "at most 64"});
  expect_bad(with(good, zero_tensor(kName + ".g_idx", TensorType::i32, {63})), {kName + ".g_idx"});
  expect_bad(with(good, zero_tensor(kName + ".g_idx", TensorType::u32, {64})), {kName + ".g_idx"});
  // Eight-bit codes of 32 columns look like four-bit ones of 64, but for the zero points.
  const WrittenLayer eight = with(without(good, kName + ".g_idx"),
                                  zero_tensor(kName + ".qzeros", TensorType::i32, {2, 4}));
  EXPECT_TRUE(gptq(false).find(io::MemorySource(eight)).empty());
}

TEST(GptqLayout, RefusesWhatItCannotHold) {
  const auto check = [](const std::string& spec, std::vector<std::size_t> shape) {
    return [spec, shape] { gptq(false).check(parse_format(spec), shape); };
  };
  check("int4:group=64", {8, 72})();
  expect_error(ErrorCode::unsupported, {"int4", "nf4"}, check("nf4", {8, 64}));
  expect_error(ErrorCode::unsupported, {"N is 12", "8"}, check("int4", {12, 64}));
  expect_error(ErrorCode::unsupported, {"K is 68", "8"}, check("int4", {8, 68}));
  expect_error(ErrorCode::unsupported, {"[2, 8, 64]"}, check("int4", {2, 8, 64}));

  const auto expect_refused = [](ErrorCode code, const std::string& part, auto change) {
    StoredLayer layer = random_layer("int4", 8, 64, 1);
    change(layer);
    expect_error(code, {kName, part}, [&] { (void)gptq(false).write(layer); });
  };
  expect_refused(ErrorCode::unsupported, "channel scale",
                 [](auto& layer) { layer.transforms.channel_scale.scale.resize(64); });
  expect_refused(ErrorCode::unsupported, "bias",
                 [](auto& layer) { layer.transforms.bias.resize(8); });
  expect_refused(ErrorCode::unsupported, "rotation", [](auto& layer) {
    layer.transforms.hadamard = {64, std::vector<float>(64, 1)};
  });
  expect_refused(ErrorCode::unsupported, "tensor scale",
                 [](auto& layer) { layer.weight.tensor.scale = 2; });
  expect_refused(ErrorCode::unsupported, "tensor scale of the input",
                 [](auto& layer) { layer.input_scale = TensorScale{}; });
  expect_refused(ErrorCode::bad_shape, "[64, 8]", [](auto& layer) { layer.shape = {64, 8}; });
  expect_refused(ErrorCode::bad_value, "zero point is 16", [](auto& layer) {
    layer.weight = QuantizedMatrix(parse_format("int4:zero_point=true"), 8, 64);
    layer.weight.zero_points[3] = 16;
  });
}

TEST(GptqLayout, ConfigSaysWhatGptqModelReads) {
  const auto config = [](bool v2, const char* spec) {
    return gptq(v2).config(parse_format(spec), {}).dump();
  };
  EXPECT_EQ(config(false, "int4:group=128"),
            R"({"quant_method":"gptq","bits":4,"group_size":128,"desc_act":false,"sym":true,)"
            R"("checkpoint_format":"gptq","pack_dtype":"int32","lm_head":false})");
  EXPECT_EQ(config(true, "int4:group=row,zero_point=true"),
            R"({"quant_method":"gptq","bits":4,"group_size":-1,"desc_act":false,"sym":false,)"
            R"("checkpoint_format":"gptq_v2","pack_dtype":"int32","lm_head":false})");
  StoredLayer head = random_layer("int4:zero_point=true", 8, 64, 1);
  head.name = "lm_head";
  nlohmann::ordered_json amended = gptq(true).config(parse_format("int4"), {});
  gptq(true).amend(amended, head);
  EXPECT_EQ(amended["lm_head"], true);
  EXPECT_EQ(amended["sym"], false);
}

}  // namespace
}  // namespace nybble::test
