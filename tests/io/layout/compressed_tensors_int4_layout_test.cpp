// compressed-tensors' pack-quantized int4.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "nybble/numeric/bfloat16.h"
#include "tests/format/golden.h"
#include "tests/io/layout/layout_support.h"

namespace nybble::test {
namespace {

using io::OwnedTensor;
using io::WrittenLayer;

const io::Layout& layout() { return io::find_layout("compressed_tensors"); }

/// A layer as compressed-tensors' own code thinks of it, and the tensors it would write.
struct Reference {
  std::size_t rows, cols, groups;
  std::vector<int> q;               ///< [rows][cols], -8..7
  std::vector<int> zero;            ///< [rows][groups], -8..7; all 0 where symmetric
  std::vector<float> scale;         ///< [rows][groups]
  std::vector<std::int32_t> index;  ///< [cols], of groups

  Reference(std::size_t row_count, std::size_t col_count, std::size_t group, bool symmetric,
            std::uint64_t seed)
      : rows(row_count), cols(col_count), groups((col_count + group - 1) / group) {
    Random random(seed);
    const auto four_bits = [&] { return static_cast<int>(random.index(16)) - 8; };
    for (std::size_t i = 0; i < rows * cols; ++i) q.push_back(four_bits());
    for (std::size_t i = 0; i < rows * groups; ++i) {
      zero.push_back(symmetric ? 0 : four_bits());
      scale.push_back(BFloat16::from_float(std::fabs(random.normal())).to_float());
    }
    for (std::size_t k = 0; k < cols; ++k) index.push_back(static_cast<std::int32_t>(k / group));
  }

  [[nodiscard]] float value(std::size_t n, std::size_t k) const {
    const std::size_t g = n * groups + static_cast<std::size_t>(index[k]);
    return static_cast<float>(q[n * cols + k] - zero[g]) * scale[g];
  }

  [[nodiscard]] WrittenLayer file(const std::string& name, bool zero_points, bool g_idx) const {
    const std::size_t words = (cols + 7) / 8;
    std::vector<std::uint32_t> packed(rows * words);
    for (std::size_t n = 0; n < rows; ++n) {
      for (std::size_t k = 0; k < cols; ++k) {
        packed[n * words + k / 8] |= static_cast<std::uint32_t>(q[n * cols + k] + 8)
                                     << (4 * (k % 8));
      }
    }
    const std::size_t zero_rows = (rows + 7) / 8;
    std::vector<std::uint32_t> zeros(zero_rows * groups);
    std::vector<std::uint16_t> scales;
    for (std::size_t n = 0; n < rows; ++n) {
      for (std::size_t g = 0; g < groups; ++g) {
        zeros[n / 8 * groups + g] |= static_cast<std::uint32_t>(zero[n * groups + g] + 8)
                                     << (4 * (n % 8));
        scales.push_back(BFloat16::from_float(scale[n * groups + g]).bits);
      }
    }
    WrittenLayer out;
    out.tensors = {tensor(name + ".weight_packed", TensorType::i32, {rows, words}, packed),
                   tensor(name + ".weight_scale", TensorType::bf16, {rows, groups}, scales),
                   tensor(name + ".weight_shape", TensorType::i64, {2},
                          std::vector<std::int64_t>{static_cast<std::int64_t>(rows),
                                                    static_cast<std::int64_t>(cols)})};
    if (zero_points) {
      out.tensors.push_back(
          tensor(name + ".weight_zero_point", TensorType::i32, {zero_rows, groups}, zeros));
    }
    if (g_idx) {
      out.tensors.push_back(tensor(name + ".weight_g_idx", TensorType::i32, {cols}, index));
    }
    return out;
  }
};

TEST(CompressedTensorsLayout, DecodesWhatTheirFormulaDoesAndWritesTheSameBytes) {
  struct Row {
    std::size_t rows, cols, group;
  };
  // Whole words and broken ones along both axes, broken last groups, one group of all columns.
  for (const Row& row :
       {Row{1, 8, 8}, Row{8, 64, 32}, Row{5, 33, 33}, Row{9, 100, 100}, Row{3, 96, 32},
        Row{17, 256, 128}, Row{2, 40, 16}, Row{1, 1, 1}, Row{7, 130, 64}, Row{16, 65, 16}}) {
    for (const bool symmetric : {true, false}) {
      for (const bool g_idx : {false, true}) {
        SCOPED_TRACE(testing::Message() << row.rows << " x " << row.cols << " group " << row.group
                                        << " symmetric " << symmetric << " g_idx " << g_idx);
        Reference reference(row.rows, row.cols, row.group, symmetric, row.cols);
        if (g_idx) {
          Random random(7);
          for (std::size_t k = row.cols; k > 1; --k) {
            std::swap(reference.index[k - 1], reference.index[random.index(k)]);
          }
        }
        const WrittenLayer file = reference.file("a.b", !symmetric, g_idx);
        const StoredLayer layer = read_back(layout(), file);
        EXPECT_EQ(layer.shape, (Shape{row.rows, row.cols}));
        EXPECT_EQ(layer.weight.groups, reference.groups);
        const std::vector<std::uint32_t>& source = layer.transforms.permutation.source;
        ASSERT_EQ(source.size(), g_idx ? row.cols : 0);
        for (std::size_t n = 0; n < row.rows; ++n) {
          for (std::size_t j = 0; j < row.cols; ++j) {
            ASSERT_EQ(layer.weight.value(n, j), reference.value(n, g_idx ? source[j] : j));
          }
          // Canonical padding stands for 0.
          for (std::size_t j = row.cols; j < layer.weight.padded_cols; ++j) {
            ASSERT_EQ(layer.weight.value(n, j), 0.0F);
          }
        }
        expect_same_tensors(layout().write(layer), file);
      }
    }
  }
}

TEST(CompressedTensorsLayout, RoundTripsEveryInt4) {
  for (const char* group : {"16", "32", "64", "128", "row"}) {
    for (const char* scale : {"f16", "bf16", "f32"}) {
      for (const char* zero_point : {"false", "true"}) {
        const std::string spec =
            fmt::format("int4:group={},zero_point={},scale={}", group, zero_point, scale);
        SCOPED_TRACE(spec);
        for (const Shape& shape : {Shape{3, 256}, Shape{9, 300}, Shape{1, 129}}) {
          expect_kept(layout(), random_layer("m.q", spec, shape));
        }
      }
    }
  }
}

TEST(CompressedTensorsLayout, RoundTripsLargeGroups) {
  for (const char* spec : {"int4:group=256", "int4:group=512,zero_point=true", "int4:group=1024"}) {
    SCOPED_TRACE(spec);
    expect_kept(layout(), random_layer("m.q", spec, {3, 2100}));
  }
}

TEST(CompressedTensorsLayout, TakesTheGroupOfAShortRowFromTheConfig) {
  const StoredLayer layer = random_layer("m.q", "int4:group=128", {3, 100});
  const json config = layout().config(layer.weight.format, {});
  EXPECT_EQ(config.at("config_groups").at("group_0").at("weights").at("group_size"), 128);
  expect_kept(layout(), layer, config);
  const StoredLayer row = read_back(layout(), layout().write(layer));
  EXPECT_EQ(row.weight.format.info().spec, "int4:group=row");
  EXPECT_EQ(row.weight.scales, layer.weight.scales);
  // Groups that the tensor cannot be of are not believed.
  const StoredLayer two = random_layer("m.q", "int4:group=64", {3, 128});
  expect_kept(layout(), two, config);
}

TEST(CompressedTensorsLayout, KeepsAnOrderOfColumnsAndWhoseGroupsTheyAre) {
  StoredLayer layer = random_layer("m.q", "int4:group=16", {4, 48});
  std::vector<std::uint32_t>& source = layer.transforms.permutation.source;
  source.resize(48);
  std::iota(source.begin(), source.end(), 0U);
  expect_kept(layout(), layer);  // one that changes nothing stays, too
  std::reverse(source.begin(), source.end());
  nlohmann::ordered_json config = layout().config(layer.weight.format, {});
  const auto order = [&] { return config["config_groups"]["group_0"]["weights"]["actorder"]; };
  layout().amend(config, random_layer("m.k", "int4:group=16", {4, 48}));
  EXPECT_TRUE(order().is_null());
  layout().amend(config, layer);
  EXPECT_EQ(order(), "group");
  const StoredLayer read = read_back(layout(), layout().write(layer));
  for (std::size_t n = 0; n < 4; ++n) {
    std::vector<float> expected(48), got(48);
    for (std::size_t j = 0; j < 48; ++j) {
      expected[source[j]] = layer.weight.value(n, j);
      got[read.transforms.permutation.source[j]] = read.weight.value(n, j);
    }
    EXPECT_EQ(got, expected);
  }
}

TEST(CompressedTensorsLayout, AnOrderOfMinusOneIsTheColumnsOwn) {
  for (const TensorType type : {TensorType::i32, TensorType::i64}) {
    Reference reference(9, 100, 32, false, 3);
    WrittenLayer file = reference.file("m.q", true, false);
    const std::size_t bytes = 100 * tensor_type_bits(type) / 8;
    file.tensors.push_back(
        {"m.q.weight_g_idx", type, {100}, std::vector<std::byte>(bytes, std::byte{0xFF})});
    const StoredLayer layer = read_back(layout(), file);
    EXPECT_TRUE(layer.transforms.permutation.source.empty());
    for (std::size_t n = 0; n < 9; ++n) {
      for (std::size_t k = 0; k < 100; ++k) {
        ASSERT_EQ(layer.weight.value(n, k), reference.value(n, k));
      }
    }
    expect_same_tensors(layout().write(layer), file);
    nlohmann::ordered_json config = layout().config(layer.weight.format, {});
    layout().amend(config, layer);
    EXPECT_EQ(config["config_groups"]["group_0"]["weights"]["actorder"], "group");
    // Layout nybble keeps what says so.
    const io::Layout& ours = io::find_layout("nybble");
    expect_same_tensors(layout().write(read_back(ours, ours.write(layer))), file);
  }
}

TEST(CompressedTensorsLayout, AnOrderMayBeInWiderNumbers) {
  Reference reference(4, 64, 16, true, 3);
  std::reverse(reference.index.begin(), reference.index.end());
  WrittenLayer file = reference.file("m.q", false, false);
  file.tensors.push_back(
      tensor("m.q.weight_g_idx", TensorType::i64, {64},
             std::vector<std::int64_t>(reference.index.begin(), reference.index.end())));
  const StoredLayer layer = read_back(layout(), file);
  const std::vector<std::uint32_t>& source = layer.transforms.permutation.source;
  for (std::size_t j = 0; j < 64; ++j) {
    EXPECT_EQ(layer.weight.value(3, j), reference.value(3, source[j]));
  }
  expect_same_tensors(layout().write(layer), file);
  const std::int64_t far = std::int64_t{1} << 32;  // 0 in 32 bits
  expect_damage(layout(), file, "m.q.weight_g_idx", {"is 4294967296 at [4]", "0 to 3"},
                [&](OwnedTensor& t) { std::memcpy(t.bytes.data() + 32, &far, 8); });
}

TEST(CompressedTensorsLayout, NamesTheTensorThatIsMissingOrOfAnotherTypeOrShape) {
  const WrittenLayer file = Reference(9, 64, 16, false, 3).file("m.q", true, true);
  expect_tensors_are_checked(layout(), file, {"m.q.weight_packed"},
                             {"m.q.weight_zero_point", "m.q.weight_g_idx"});
  const json asymmetric = {{"config_groups", {{"group_0", {{"weights", {{"symmetric", false}}}}}}}};
  WrittenLayer without = file;
  find_tensor(without, "m.q.weight_zero_point")->name = "m.q.gone";
  const io::MemorySource source(without, asymmetric);
  expect_error(ErrorCode::bad_file, {"m.q.weight_zero_point", "symmetric"},
               [&] { static_cast<void>(layout().read(source, layout().find(source).at(0))); });
}

TEST(CompressedTensorsLayout, RefusesJunkInItsTensors) {
  const auto set_word = [](OwnedTensor& t, std::size_t index, std::uint32_t word) {
    std::memcpy(t.bytes.data() + 4 * index, &word, 4);
  };
  // 9 rows of 20: 2 words of zero points, 3 of codes.
  const WrittenLayer file = Reference(9, 20, 16, false, 3).file("m.q", true, false);
  expect_damage(layout(), file, "m.q.weight_packed", {"m.q.weight_packed", "code 3 at [1, 22]"},
                [&](OwnedTensor& t) { set_word(t, 5, 0x3000000); });
  expect_damage(layout(), file, "m.q.weight_zero_point",
                {"m.q.weight_zero_point", "has 5 at [10, 1]"},
                [&](OwnedTensor& t) { set_word(t, 3, 0x501); });
  for (const std::uint16_t bits : {std::uint16_t{0x7F80}, std::uint16_t{0x7FC0}}) {
    expect_damage(layout(), file, "m.q.weight_scale", {"m.q.weight_scale", "[1, 1]", "finite"},
                  [&](OwnedTensor& t) { std::memcpy(t.bytes.data() + 6, &bits, 2); });
  }
  const std::int64_t shapes[][2] = {{8, 20},  {9, 15}, {9, 25}, {9, 0},        {-1, 20},
                                    {9, -20}, {0, 0},  {20, 9}, {9, INT64_MAX}};
  const json four_bits = layout().config(parse_format("int4"), {});
  for (const auto& shape : shapes) {
    WrittenLayer wrong = file;
    std::memcpy(find_tensor(wrong, "m.q.weight_shape")->bytes.data(), shape, 16);
    expect_error(ErrorCode::bad_file, {"m.q.weight_shape", std::to_string(shape[1])},
                 [&] { static_cast<void>(read_back(layout(), wrong, four_bits)); });
  }
  const WrittenLayer ordered = Reference(9, 32, 16, true, 3).file("m.q", false, true);
  for (const std::int32_t group : {-1, 2, INT32_MAX, INT32_MIN}) {
    expect_damage(layout(), ordered, "m.q.weight_g_idx",
                  {"m.q.weight_g_idx", std::to_string(group) + " at [4]", "0 to 1"},
                  [&](OwnedTensor& t) { std::memcpy(t.bytes.data() + 16, &group, 4); });
  }
  WrittenLayer uneven = ordered;
  set_word(*find_tensor(uneven, "m.q.weight_g_idx"), 0, 1);
  expect_error(ErrorCode::unsupported, {"m.q.weight_g_idx", "16 columns"},
               [&] { static_cast<void>(read_back(layout(), uneven)); });
  WrittenLayer many = ordered;  // 3 groups of 32 columns: of no group there is
  OwnedTensor& scale = *find_tensor(many, "m.q.weight_scale");
  scale.shape = {9, 3};
  scale.bytes.resize(54);
  expect_error(ErrorCode::bad_file, {"m.q.weight_scale", "3 scales", "32"},
               [&] { static_cast<void>(read_back(layout(), many)); });
}

TEST(CompressedTensorsLayout, LeavesCodesOfOtherWidthsAlone) {
  WrittenLayer file = Reference(4, 64, 16, true, 3).file("m.q", false, false);
  const std::int64_t eight_bits[] = {4, 32};
  std::memcpy(find_tensor(file, "m.q.weight_shape")->bytes.data(), eight_bits, 16);
  EXPECT_TRUE(layout().find(io::MemorySource(file)).empty());
  // Unless the config says that all are of four bits: then it is a broken one.
  const json four_bits = layout().config(parse_format("int4"), {});
  EXPECT_EQ(layout().find(io::MemorySource(file, four_bits)).size(), 1U);
}

TEST(CompressedTensorsLayout, RefusesWhatItCannotHold) {
  for (const char* spec : {"nf4", "fp4", "mxfp4", "nvfp4", "amxfp4", "nf4:double=true"}) {
    expect_error(ErrorCode::unsupported, {"compressed_tensors", spec}, [&] {
      layout().check(parse_format(spec), Shape{4, 64});
    });
  }
  expect_error(ErrorCode::unsupported, {"[2, 4, 64]"}, [&] {
    layout().check(parse_format("int4"), Shape{2, 4, 64});
  });
  StoredLayer layer = random_layer("m.q", "int4:zero_point=true", {4, 64});
  layer.weight.zero_points[3] = 16;
  expect_error(ErrorCode::bad_value, {"m.q", "zero point 16", "row 1, group 1"},
               [&] { static_cast<void>(layout().write(layer)); });
  layer = random_layer("m.q", "int4", {4, 64});
  layer.transforms.channel_scale.scale.assign(64, 1.0F);
  expect_error(ErrorCode::unsupported, {"m.q", "channel scale"},
               [&] { static_cast<void>(layout().write(layer)); });
}

}  // namespace
}  // namespace nybble::test
