#include <gtest/gtest.h>

#include <algorithm>

#include "tests/io/layout/layout_support.h"
#include "tests/support/all_specs.h"

namespace nybble::test {
namespace {

using io::OwnedTensor;
using io::WrittenLayer;

const io::Layout& layout() { return io::find_layout("nybble"); }

/// All that can be around a layer.
StoredLayer full_layer(const std::string& spec, const Shape& shape) {
  StoredLayer layer = random_layer("m.q", spec, shape);
  const std::size_t rows = layer.weight.rows;
  const std::size_t cols = layer.weight.cols;
  layer.input_scale = TensorScale{0.5F, 7, 2};
  Transforms& t = layer.transforms;
  t.channel_scale.scale = normal_values(cols, 5);
  for (std::size_t k = 0; k < cols; ++k) {
    t.permutation.source.push_back(static_cast<std::uint32_t>(cols - 1 - k));
    t.hadamard.signs.push_back(k % 3 == 0 ? -1.0F : 1.0F);
  }
  t.hadamard.block = 4;
  t.low_rank = {2, normal_values(2 * cols, 6), normal_values(2 * rows, 7)};
  t.sparse.row_start.assign(rows + 1, 2);
  t.sparse.row_start[0] = 0;
  t.sparse.column = {1, 3};
  t.sparse.value = {0.5F, -2};
  return layer;
}

void expect_same_surroundings(const StoredLayer& got, const StoredLayer& expected) {
  EXPECT_EQ(got.transforms.channel_scale.scale, expected.transforms.channel_scale.scale);
  EXPECT_EQ(got.transforms.permutation.source, expected.transforms.permutation.source);
  EXPECT_EQ(got.transforms.hadamard.block, expected.transforms.hadamard.block);
  EXPECT_EQ(got.transforms.hadamard.signs, expected.transforms.hadamard.signs);
  EXPECT_EQ(got.transforms.low_rank.rank, expected.transforms.low_rank.rank);
  EXPECT_EQ(got.transforms.low_rank.a, expected.transforms.low_rank.a);
  EXPECT_EQ(got.transforms.low_rank.b, expected.transforms.low_rank.b);
  EXPECT_EQ(got.transforms.sparse.row_start, expected.transforms.sparse.row_start);
  EXPECT_EQ(got.transforms.sparse.column, expected.transforms.sparse.column);
  EXPECT_EQ(got.transforms.sparse.value, expected.transforms.sparse.value);
  ASSERT_EQ(got.input_scale.has_value(), expected.input_scale.has_value());
  if (!got.input_scale) return;
  EXPECT_EQ(got.input_scale->scale, expected.input_scale->scale);
  EXPECT_EQ(got.input_scale->amax, expected.input_scale->amax);
  EXPECT_EQ(got.input_scale->divisor, expected.input_scale->divisor);
}

TEST(NybbleLayout, RoundTripsEveryFormatInShapesThatAreNoWholeGroups) {
  for (const std::string& spec : all_specs()) {
    SCOPED_TRACE(spec);
    for (const Shape& shape : {Shape{3, 256}, Shape{5, 37}, Shape{2, 3, 64}, Shape{1, 1}}) {
      expect_kept(layout(), random_layer("m.q", spec, shape));
    }
  }
}

/// Those that only files of others have: offsets, and numbers that groups share.
TEST(NybbleLayout, RoundTripsImportedFormats) {
  for (const char* spec : {"q4_1", "q4_k", "iq4_xs"}) {
    SCOPED_TRACE(spec);
    StoredLayer layer{"m.q", {3, 512}, QuantizedMatrix(parse_format(spec), 3, 512), {}};
    QuantizedMatrix& m = layer.weight;
    std::uint8_t next = 1;
    for (auto* bytes : {&m.codes, &m.scales, &m.offsets}) {
      // The high byte of an f16 stays below that of Inf.
      for (std::uint8_t& byte : *bytes)
        byte = (next = static_cast<std::uint8_t>(next * 5 + 1)) & 63;
    }
    for (float& value : m.nested_scales) value = 0.25F * static_cast<float>(++next);
    for (float& value : m.nested_offsets) value = 0.5F * static_cast<float>(++next);
    const StoredLayer read = read_back(layout(), expect_kept(layout(), layer));
    EXPECT_EQ(read.weight.offsets, m.offsets);
    EXPECT_EQ(read.weight.nested_scales, m.nested_scales);
    EXPECT_EQ(read.weight.nested_offsets, m.nested_offsets);
    for (std::size_t col = 0; col < 512; ++col) {
      EXPECT_EQ(read.weight.value(1, col), m.value(1, col));
    }
  }
}

TEST(NybbleLayout, KeepsAllThatIsAroundALayer) {
  for (const char* spec : {"int4:zero_point=true", "nf4:double=true", "amxfp4", "nvfp4"}) {
    SCOPED_TRACE(spec);
    StoredLayer layer = full_layer(spec, {6, 52});
    if (layer.weight.format.info().tensor_scale) layer.weight.tensor = {0.125F, 3, 8};
    const StoredLayer read = read_back(layout(), expect_kept(layout(), layer));
    expect_same_surroundings(read, layer);
    EXPECT_EQ(read.weight.tensor.amax, layer.weight.tensor.amax);
    EXPECT_EQ(read.weight.tensor.divisor, layer.weight.tensor.divisor);
  }
  StoredLayer biased = random_layer("m.q", "int4", {4, 32});
  biased.transforms.bias.assign(4, 1);
  expect_error(ErrorCode::unsupported, {"m.q", "bias"},
               [&] { static_cast<void>(layout().write(biased)); });
  // A rotation without random signs has all of them 1.
  StoredLayer rotated = random_layer("m.q", "int4", {4, 32});
  rotated.transforms.hadamard.block = 32;
  EXPECT_EQ(read_back(layout(), layout().write(rotated)).transforms.hadamard.signs,
            std::vector<float>(32, 1));
}

/// What a version before per-layer formats and shapes wrote.
WrittenLayer early(const StoredLayer& layer) {
  WrittenLayer written = layout().write(layer);
  std::erase_if(written.tensors,
                [](const OwnedTensor& tensor) { return tensor.name.ends_with(".shape"); });
  written.metadata.erase("m.q.weight.format");
  written.metadata["nybble.format"] = layer.weight.format.info().spec;
  return written;
}

TEST(NybbleLayout, ReadsEarlyFilesWithOneFormatAndNoShapes) {
  const StoredLayer whole = random_layer("m.q", "nvfp4", {4, 64});
  expect_same_matrix(read_back(layout(), early(whole)).weight, whole.weight);
  // What is stored a column says how many there are ...
  StoredLayer broken = random_layer("m.q", "int4", {4, 40});
  broken.transforms.channel_scale.scale.assign(40, 2);
  expect_same_matrix(read_back(layout(), early(broken)).weight, broken.weight);
  // ... and without it the padding is columns, whose codes stand for 0.
  broken.transforms = {};
  const StoredLayer read = read_back(layout(), early(broken));
  EXPECT_EQ(read.shape, (Shape{4, 64}));
  EXPECT_EQ(read.weight.codes, broken.weight.codes);
  EXPECT_EQ(read.weight.value(3, 63), 0.0F);
  EXPECT_EQ(layout().write(read).tensors.size(), 2U);  // as they were
}

TEST(NybbleLayout, RefusesTensorsThatAFormatHasNoUseFor) {
  const WrittenLayer written = layout().write(random_layer("m.q", "int4", {4, 32}));
  for (const char* part : {"zero_points", "nested_scales", "nested_offset", "tensor_scale"}) {
    WrittenLayer more = written;
    more.tensors.push_back(
        tensor(std::string("m.q.weight.") + part, TensorType::f32, {2}, std::vector<float>{1, 1}));
    expect_error(ErrorCode::bad_file, {part, "int4"},
                 [&] { static_cast<void>(read_back(layout(), more)); });
  }
}

TEST(NybbleLayout, TakesALayersOwnFormatBeforeThatOfTheFile) {
  WrittenLayer written = layout().write(random_layer("m.q", "mxfp4:rule=even", {4, 32}));
  EXPECT_EQ(written.metadata.at("m.q.weight.format"), "mxfp4:rule=even");
  written.metadata["nybble.format"] = "int4";
  EXPECT_EQ(read_back(layout(), written).weight.format.info().spec, "mxfp4:rule=even");
}

TEST(NybbleLayout, NamesTheTensorThatIsMissingOrOfAnotherTypeOrShape) {
  const StoredLayer full = full_layer("int4:zero_point=true", {6, 52});
  // Most parts may be missing; of those that come together, not one of them.
  expect_tensors_are_checked(layout(), layout().write(full),
                             {"m.q.weight.codes", "m.q.weight.low_rank_a"},
                             {"m.q.weight.shape", "m.q.weight.channel_scale",
                              "m.q.weight.permutation", "m.q.weight.input_scale"});
  expect_damage(layout(), layout().write(full), "m.q.weight.low_rank_a", {"m.q.weight.low_rank_a"},
                [](OwnedTensor& t) { t.name += "_gone"; });
  expect_damage(layout(), layout().write(full), "m.q.weight.low_rank_a", {"low_rank_b", "[6, 1]"},
                [](OwnedTensor& t) {
                  t.shape = {1, 52}, t.bytes.resize(208);
                });
  expect_tensors_are_checked(layout(), layout().write(random_layer("m.q", "nvfp4", {6, 52})),
                             {"m.q.weight.codes"}, {"m.q.weight.shape"});
  expect_tensors_are_checked(layout(),
                             layout().write(random_layer("m.q", "nf4:double=true", {6, 52})),
                             {"m.q.weight.codes"}, {"m.q.weight.shape"});
}

TEST(NybbleLayout, RefusesValuesThatNoLayerHas) {
  const WrittenLayer written = layout().write(full_layer("int4:zero_point=true", {6, 52}));
  const auto set = [&](const char* part, std::size_t offset, auto value, const char* expected) {
    const std::string name = std::string("m.q.weight.") + part;
    expect_damage(layout(), written, name, {"m.q", expected}, [&](OwnedTensor& t) {
      std::memcpy(t.bytes.data() + offset, &value, sizeof value);
    });
  };
  set("zero_points", 7, std::uint8_t{16}, "is 16 at 7, expected numbers from 0 to 15");
  set("channel_scale", 4, std::nanf(""), "finite numbers");
  set("hadamard_signs", 8, 0.5F, "is 0.5 at 2, expected 1 and -1");
  set("permutation", 0, std::uint32_t{52}, "index 52");
  set("permutation", 0, std::uint32_t{3}, "repeated");
  set("low_rank_a", 0, std::nanf(""), "finite numbers");
  set("sparse_row_start", 0, std::uint32_t{1}, "sparse outliers");
  set("sparse_row_start", 24, std::uint32_t{UINT32_MAX}, "4294967295");
  set("sparse_column", 0, std::uint32_t{52}, "column 52 of 52");
  set("sparse_value", 0, std::nanf(""), "finite numbers");
  set("input_scale", 8, std::nanf(""), "finite numbers");
  set("input_scale", 8, -0.0F, "divisor of 0");
  set("shape", 0, std::int64_t{5}, "[5, 52]");
  set("shape", 8, std::int64_t{65}, "[6, 65]");
  set("shape", 8, std::int64_t{0}, "[6, 0]");
  set("shape", 8, std::int64_t{-1}, "expected");
  set("shape", 8, std::int64_t{32}, "codes");
}

TEST(NybbleLayout, RefusesMetadataItDoesNotUnderstand) {
  const WrittenLayer written = layout().write(full_layer("int4", {6, 52}));
  const auto with = [&](const std::string& key, const std::string& value) {
    WrittenLayer changed = written;
    changed.metadata[key] = value;
    return changed;
  };
  const auto refuses = [](ErrorCode code, const WrittenLayer& changed,
                          const std::vector<std::string>& parts) {
    expect_error(code, parts, [&] { static_cast<void>(read_back(layout(), changed)); });
  };
  refuses(ErrorCode::unsupported, with("nybble.version", "2"), {"version \"2\"", "\"1\""});
  refuses(ErrorCode::bad_file, with("m.q.weight.format", "jnt4"), {"m.q.weight.format", "jnt4"});
  // A group far larger than what there is: before any memory is asked for.
  refuses(ErrorCode::bad_file, with("m.q.weight.format", "nf4:block=4096"), {"m.q.weight.codes"});
  for (const char* block : {"0", "", "-4", "4x", "99999999999999999999999"}) {
    refuses(ErrorCode::bad_file, with("m.q.weight.hadamard_block", block),
            {"m.q.weight.hadamard_block"});
  }
  refuses(ErrorCode::bad_file, with("m.q.weight.hadamard_block", "5"), {"hadamard"});
  WrittenLayer changed = written;
  changed.metadata.erase("nybble.version");
  refuses(ErrorCode::bad_file, changed, {"nybble.version", "missing"});
  changed = written;
  changed.metadata.erase("m.q.weight.hadamard_block");
  refuses(ErrorCode::bad_file, changed, {"m.q.weight.hadamard_signs"});
  changed = written;
  changed.metadata.erase("m.q.weight.format");
  EXPECT_TRUE(layout().find(io::MemorySource(changed)).empty());
}

TEST(NybbleLayout, IsFoundByItsMetadataWhateverTheConfigSays) {
  const io::MemorySource source(layout().write(random_layer("m.q", "int4", {4, 32})),
                                {{"quant_method", "gptq"}});
  std::vector<std::string> reasons;
  const std::vector<io::FoundModule> found = io::detect(source, "", reasons);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].layout->name(), "nybble");
  EXPECT_EQ(reasons,
            std::vector<std::string>{"nybble: 1 layers (metadata has the format \"int4\")"});
  EXPECT_TRUE(layout().config(parse_format("int4"), {}).is_null());
}

}  // namespace
}  // namespace nybble::test
