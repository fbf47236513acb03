#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <numeric>

#include "nybble/error.h"
#include "nybble/format/nf4.h"
#include "nybble/format/registry.h"
#include "nybble/io/npy.h"
#include "nybble/linear/linear.h"
#include "nybble/tensor/packed_matrix.h"
#include "src/io/layout/layout.h"
#include "tests/format/golden.h"
#include "tests/io/layout/layer_files.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"
#include "tests/support/shared.h"

namespace nybble::test {
namespace {

using io::WrittenLayer;

const std::string kName = "model.layers.0.mlp.up_proj";
const std::string kWeight = kName + ".weight";
const std::string kState = kWeight + ".quant_state.bitsandbytes__nf4";

const io::Layout& bnb() { return io::find_layout("bitsandbytes"); }

io::OwnedTensor text_tensor(const std::string& name, const std::string& text) {
  return tensor_from(name, TensorType::u8, {text.size()},
                     std::vector<char>(text.begin(), text.end()));
}
std::string text_of(const io::OwnedTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
}

/// bitsandbytes' tables as its own code made them: golden/formats/bnb.
std::vector<float> golden_table(const std::filesystem::path& root, const char* name) {
  return read_npy(root / "bnb" / name).as_f32();
}

TEST(BitsandbytesLayout, GoldenTensorsAreDecodedAndWrittenAgainToTheByte) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  std::size_t plain = 0;
  std::size_t across_rows = 0;
  std::size_t nested = 0;
  for (const GoldenCase& golden : golden_cases(root, "bnb")) {
    if (golden.cols % 2 != 0) continue;
    const std::size_t split = golden.variant.find("_b");
    const std::string type = golden.variant.substr(0, split);
    const std::string block = golden.variant.substr(split + 2);
    const std::vector<std::uint8_t> packed = golden.bytes("packed");
    const std::vector<float> absmax = golden.floats("absmax");
    const std::string state = kWeight + ".quant_state.bitsandbytes__" + type;
    WrittenLayer file;
    file.tensors = {
        tensor_from(kWeight, TensorType::u8, {packed.size(), 1}, packed),
        tensor_from(kWeight + ".absmax", TensorType::f32, {absmax.size()}, absmax),
        tensor_from(kWeight + ".quant_map", TensorType::f32, {16},
                    golden_table(root, type == "nf4" ? "code_nf4.npy" : "code_fp4.npy")),
        text_tensor(state, fmt::format(R"({{"quant_type": "{}", "blocksize": {}, )"
                                       R"("dtype": "float16", "shape": [{}, {}]}})",
                                       type, block, golden.rows, golden.cols))};
    const StoredLayer layer = read_back(bnb(), file);
    expect_same_values(dequantized(layer.weight), golden.floats("dq"), golden.label);
    expect_same_tensors(bnb().write(layer), file, golden.label);
    ++plain;
    if (golden.cols % std::stoul(block) != 0) ++across_rows;
    if (!golden.has("nested_dq")) continue;

    const std::vector<std::uint8_t> codes = golden.bytes("nested_absmax_u8");
    const std::vector<float> second = golden.floats("nested_absmax2");
    // As Python writes an f32 that became a double.
    const std::string offset =
        fmt::format("{}", static_cast<double>(golden.floats("nested_offset").at(0)));
    WrittenLayer twice = without(file, kWeight + ".absmax");
    twice.tensors.push_back(
        tensor_from(kWeight + ".absmax", TensorType::u8, {codes.size()}, codes));
    twice.tensors.push_back(
        tensor_from(kWeight + ".nested_absmax", TensorType::f32, {second.size()}, second));
    twice.tensors.push_back(tensor_from(kWeight + ".nested_quant_map", TensorType::f32, {256},
                                        golden_table(root, "code_dynamic8.npy")));
    // Blocks are those of the flattened tensor: its numbers are the same in rows that cut them.
    for (const std::size_t cols : {golden.cols, std::size_t{32}, std::size_t{8}}) {
      const std::string text = fmt::format(
          R"({{"quant_type": "{}", "blocksize": {}, "dtype": "float16", "shape": [{}, {}], )"
          R"("nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": {}}})",
          type, block, golden.rows * golden.cols / cols, cols, offset);
      twice = with(twice, text_tensor(state, text));
      const StoredLayer nested_layer = read_back(bnb(), twice);
      const std::string label = fmt::format("{} nested, rows of {}", golden.label, cols);
      EXPECT_EQ(nested_layer.weight.group, std::gcd(cols, std::stoul(block))) << label;
      expect_same_values(dequantized(nested_layer.weight), golden.floats("nested_dq"), label);
      expect_same_tensors(bnb().write(nested_layer), twice, label);
    }
    ++nested;
  }
  EXPECT_GE(plain, 40U);
  EXPECT_GE(across_rows, 4U);
  EXPECT_GE(nested, 10U);
}

TEST(BitsandbytesLayout, EveryFormatAndShapeItHoldsComesBack) {
  for (const std::string name : {"nf4", "fp4_bnb"}) {
    for (const std::size_t block : {32U, 64U, 128U, 256U, 512U, 1024U, 2048U, 4096U}) {
      for (const std::string nested : {"false", "true"}) {
        const std::string spec = fmt::format("{}:block={},double={}", name, block, nested);
        expect_round_trip(bnb(), random_layer(spec, 3, block, block));
        expect_round_trip(bnb(), random_layer(spec, 7, 3 * block, block));
      }
    }
    expect_round_trip(bnb(), random_layer(name + ":double=true", 65, 64 * 64, 1));
  }
}

TEST(BitsandbytesLayout, ExpertsAreRowsOfOneMatrix) {
  StoredLayer layer = random_layer("nf4", 6, 128, 1);
  layer.shape = {3, 2, 128};
  expect_round_trip(bnb(), layer);
}

/// The text of such a file. `offset` is that of nested scales, or empty.
std::string flat_text(std::size_t rows, std::size_t cols, std::size_t block,
                      const std::string& offset) {
  return fmt::format(
      R"({{"quant_type": "nf4", "blocksize": {}, "dtype": "bfloat16", "shape": [{}, {}]{}}})",
      block, rows, cols,
      offset.empty()
          ? ""
          : R"(, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": )" + offset);
}

/// A file of rows x cols random codes whose blocks run over the flattened tensor.
WrittenLayer flat_file(std::size_t rows, std::size_t cols, std::size_t block) {
  Random random(rows + cols);
  std::vector<std::uint8_t> codes(rows * cols / 2);
  for (std::uint8_t& byte : codes) byte = static_cast<std::uint8_t>(random.index(256));
  std::vector<float> absmax((rows * cols + block - 1) / block);
  for (float& scale : absmax) scale = random.normal();
  WrittenLayer file;
  file.tensors = {
      tensor_from(kWeight, TensorType::u8, {codes.size(), 1}, codes),
      tensor_from(kWeight + ".absmax", TensorType::f32, {absmax.size()}, absmax),
      tensor_from(kWeight + ".quant_map", TensorType::f32, {16},
                  std::vector<float>(Nf4Levels::kLevels.begin(), Nf4Levels::kLevels.end())),
      text_tensor(kState, flat_text(rows, cols, block, ""))};
  return file;
}

/// The same with scales that are quantized again, some of them by a scale of 0: all codes give the
/// same number then, and must come back all the same.
WrittenLayer nested_flat_file(std::size_t rows, std::size_t cols, std::size_t block) {
  WrittenLayer file = flat_file(rows, cols, block);
  const std::size_t blocks = tensor_of(file, kWeight + ".absmax").shape[0];
  Random random(rows + cols + 1);
  std::vector<std::uint8_t> codes(blocks);
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random.index(256));
  std::vector<float> nested((blocks + 255) / 256);
  for (float& scale : nested) scale = random.index(3) == 0 ? 0 : random.normal();
  file = with(file, tensor_from(kWeight + ".absmax", TensorType::u8, {blocks}, codes));
  file = with(file, text_tensor(kState, flat_text(rows, cols, block, "0.3125")));
  file.tensors.push_back(
      tensor_from(kWeight + ".nested_absmax", TensorType::f32, {nested.size()}, nested));
  file.tensors.push_back(
      tensor_from(kWeight + ".nested_quant_map", TensorType::f32, {256},
                  std::vector<float>(nested_table().begin(), nested_table().end())));
  return file;
}

/// The absmax of a block of such a file, as bitsandbytes has it before it decodes: an f32 product,
/// stored, then an f32 sum.
float absmax_of(WrittenLayer& file, std::size_t block) {
  const io::OwnedTensor& absmax = tensor_of(file, kWeight + ".absmax");
  if (absmax.type == TensorType::f32) return std::bit_cast<float>(word_at(absmax, block));
  const auto code = std::to_integer<std::size_t>(absmax.bytes[block]);
  const auto table = word_at(tensor_of(file, kWeight + ".nested_quant_map"), code);
  const auto nested = word_at(tensor_of(file, kWeight + ".nested_absmax"), block / 256);
  const float product = std::bit_cast<float>(table) * std::bit_cast<float>(nested);
  return product + 0.3125F;
}

void expect_blocks_are_cut(WrittenLayer file, std::size_t rows, std::size_t cols,
                           std::size_t block) {
  const StoredLayer layer = read_back(bnb(), file);
  const std::string label = fmt::format("block {} {} x {}", block, rows, cols);
  EXPECT_EQ(layer.weight.group, std::gcd(block, cols)) << label;
  const auto& codes = tensor_of(file, kWeight).bytes;
  std::vector<float> expected(rows * cols);
  for (std::size_t i = 0; i < rows * cols; ++i) {
    const auto byte = std::to_integer<std::uint8_t>(codes[i / 2]);
    const std::uint8_t code = i % 2 == 0 ? byte >> 4 : byte & 15;
    expected[i] = Nf4Levels::kLevels[code] * absmax_of(file, i / block);
  }
  expect_same_values(dequantized(layer.weight), expected, label);
  expect_same_tensors(bnb().write(layer), file, label);
}

TEST(BitsandbytesLayout, BlocksThatRunAcrossRowEndsAreCutThere) {
  for (const std::size_t block : {32U, 64U, 256U, 4096U}) {
    for (const std::size_t cols : {2U, 34U, 36U, 40U, 48U, 96U, 128U, 130U}) {
      for (const std::size_t rows : {1U, 3U, 64U, 300U}) {
        expect_blocks_are_cut(flat_file(rows, cols, block), rows, cols, block);
        expect_blocks_are_cut(nested_flat_file(rows, cols, block), rows, cols, block);
      }
    }
  }
  // A vision tower's K; scales of scales that 16 groups of 256 have in common.
  expect_blocks_are_cut(nested_flat_file(37, 4304, 64), 37, 4304, 64);
}

TEST(BitsandbytesLayout, KernelsTakeSuchBlocksFrom16OnAndRefuseSmallerOnes) {
  SerialExecutor executor;
  for (const auto file : {flat_file, nested_flat_file}) {
    const QuantizedMatrix matrix = read_back(bnb(), file(300, 48, 64)).weight;
    const QuantizedMatrix unpacked = PackedMatrix(matrix, executor).unpack(executor);
    expect_same_layer({kName, {300, 48}, unpacked, {}}, {kName, {300, 48}, matrix, {}}, "packed");
    const QuantizedLinear linear(matrix, {}, executor);
    EXPECT_EQ(linear.cols(), 48U);
    expect_error(ErrorCode::unsupported, {"nf4:block=8", "groups of 8", "multiples of 16"},
                 [&] { QuantizedLinear(read_back(bnb(), file(4, 40, 64)).weight, {}, executor); });
  }
}

TEST(BitsandbytesLayout, BlocksAcrossRowsAreWrittenOnlyAsTheyWere) {
  StoredLayer layer = read_back(bnb(), flat_file(3, 40, 64));
  StoredLayer changed = layer;
  changed.weight.scales[4] ^= 1;
  expect_error(ErrorCode::unsupported, {kName, "scales differ within block 0 of 64"},
               [&] { (void)bnb().write(changed); });
  layer.details.clear();
  expect_error(ErrorCode::unsupported, {kName, "blocks of 8", "32 to 4096"},
               [&] { (void)bnb().write(layer); });
}

TEST(BitsandbytesLayout, NestedBlocksAcrossRowsAreWrittenOnlyAsTheyWere) {
  const StoredLayer layer = read_back(bnb(), nested_flat_file(600, 40, 64));  // 8 groups a block
  ASSERT_EQ(layer.weight.nested_scales.size(), 12U);
  StoredLayer changed = layer;
  changed.weight.scales[13] ^= 1;
  expect_error(ErrorCode::unsupported, {kName, "scales differ within block 1 of 64"},
               [&] { (void)bnb().write(changed); });
  changed = layer;
  changed.weight.nested_scales[9] += 1;
  expect_error(ErrorCode::unsupported, {kName, "nested scales differ within block 1 of 16384"},
               [&] { (void)bnb().write(changed); });
  changed = layer;
  changed.details.clear();
  expect_error(ErrorCode::unsupported, {kName, "blocks of 8", "32 to 4096"},
               [&] { (void)bnb().write(changed); });
  // What stands for a whole block may change: the text follows.
  changed = layer;
  changed.weight.nested_offset = 0.5F;
  WrittenLayer expected = nested_flat_file(600, 40, 64);
  expected = with(expected, text_tensor(kState, flat_text(600, 40, 64, "0.5")));
  expect_same_tensors(bnb().write(changed), expected, "another offset");
}

TEST(BitsandbytesLayout, TensorsOfNestedBlocksAcrossRowsHaveOneElementABlock) {
  const WrittenLayer good = nested_flat_file(600, 40, 64);
  for (const auto& [name, type, count] :
       {std::tuple{".absmax", TensorType::u8, 375U}, {".nested_absmax", TensorType::f32, 2U}}) {
    const std::string tensor = kWeight + name;
    // One a group, one too few, one too many.
    for (const std::size_t wrong : {count * 8, count - 1, count + 1}) {
      const WrittenLayer file = with(good, zero_tensor(tensor, type, {wrong}));
      const std::vector<std::string> parts = {tensor, fmt::format("[{}]", count)};
      expect_error(ErrorCode::bad_file, parts, [&] { read_back(bnb(), file); });
    }
    expect_error(ErrorCode::bad_file, {tensor, "no tensor"},
                 [&] { read_back(bnb(), without(good, tensor)); });
  }
}

TEST(BitsandbytesLayout, RowsOfOddLengthAreUnsupported) {
  const auto with_shape = [](const std::string& shape) {
    return with(flat_file(6, 64, 64),
                text_tensor(kState, R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", )"
                                    R"("shape": )" +
                                        shape + "}"));
  };
  expect_error(ErrorCode::unsupported, {kName, "[128, 3]", "even"},
               [&] { read_back(bnb(), with_shape("[128, 3]")); });
  expect_error(ErrorCode::unsupported, {kName, "[384]", "two dimensions"},
               [&] { read_back(bnb(), with_shape("[384]")); });
}

TEST(BitsandbytesLayout, TheTextIsWhatPythonWrites) {
  const auto text = [](StoredLayer layer) {
    WrittenLayer written = bnb().write(layer);
    return text_of(written.tensors.back());
  };
  EXPECT_EQ(text(random_layer("fp4_bnb", 2, 64, 1)),
            R"({"quant_type": "fp4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]})");
  // What Python's json.dumps makes of these f32 as doubles.
  const std::pair<float, const char*> offsets[] = {{0.0123F, "0.012299999594688416"},
                                                   {1.0F, "1.0"},
                                                   {-2.0F, "-2.0"},
                                                   {0.0F, "0.0"},
                                                   {-0.0F, "-0.0"},
                                                   {1e-5F, "9.999999747378752e-06"},
                                                   {0x1p-14F, "6.103515625e-05"},
                                                   {0.0001F, "9.999999747378752e-05"},
                                                   {0x1p-13F, "0.0001220703125"},
                                                   {1e15F, "999999986991104.0"},
                                                   {0x1p60F, "1.152921504606847e+18"},
                                                   {1e16F, "1.0000000272564224e+16"}};
  for (const auto& [offset, expected] : offsets) {
    StoredLayer layer = random_layer("nf4:block=128,double=true", 2, 128, 1);
    layer.weight.nested_offset = offset;
    EXPECT_EQ(text(layer), fmt::format(R"({{"quant_type": "nf4", "blocksize": 128, )"
                                       R"("dtype": "bfloat16", "shape": [2, 128], )"
                                       R"("nested_blocksize": 256, "nested_dtype": "float32", )"
                                       R"("nested_offset": {}}})",
                                       expected));
    expect_round_trip(bnb(), layer);
  }
  StoredLayer endless = random_layer("nf4:double=true", 2, 64, 1);
  endless.weight.nested_offset = std::numeric_limits<float>::infinity();
  expect_error(ErrorCode::unsupported, {kName, "nested offset inf"},
               [&] { (void)bnb().write(endless); });
}

TEST(BitsandbytesLayout, ATextThatIsSpelledOtherwiseStaysAsLongAsItIsTrue) {
  const std::string odd =
      R"({ "shape":[3,64],"dtype":"float16","blocksize":64,"quant_type":"nf4","new":1})";
  const WrittenLayer file = with(flat_file(3, 64, 64), text_tensor(kState, odd));
  StoredLayer layer = read_back(bnb(), file);
  expect_same_tensors(bnb().write(layer), file, "odd text");
  // Requantized: what is kept is the dtype alone.
  layer.weight = random_layer("nf4:block=32", 3, 64, 1).weight;
  WrittenLayer written = bnb().write(layer);
  EXPECT_EQ(text_of(written.tensors.back()),
            R"({"quant_type": "nf4", "blocksize": 32, "dtype": "float16", "shape": [3, 64]})");
  layer.weight = random_layer("fp4_bnb", 3, 64, 1).weight;
  written = bnb().write(layer);
  EXPECT_EQ(text_of(written.tensors.back()),
            R"({"quant_type": "fp4", "blocksize": 64, "dtype": "bfloat16", "shape": [3, 64]})");
}

TEST(BitsandbytesLayout, OtherStorageTypesAreTheSameBytes) {
  for (const auto& [type, size] : {std::pair{TensorType::bf16, 2U},
                                   {TensorType::f32, 4U},
                                   {TensorType::f16, 2U},
                                   {TensorType::i8, 1U}}) {
    WrittenLayer file = flat_file(3, 64, 64);
    io::OwnedTensor& weight = tensor_of(file, kWeight);
    weight.type = type;
    weight.shape = {weight.bytes.size() / size, 1};
    const StoredLayer layer = read_back(bnb(), file);
    expect_same_layer(layer, read_back(bnb(), flat_file(3, 64, 64)), "storage");
    expect_same_tensors(bnb().write(layer), file, "storage");
  }
}

TEST(BitsandbytesLayout, DamagedTensorsAreNamed) {
  const WrittenLayer good = bnb().write(random_layer("nf4:double=true", 6, 128, 1));
  const auto expect_bad = [](ErrorCode code, const WrittenLayer& file,
                             const std::vector<std::string>& parts) {
    SCOPED_TRACE(testing::PrintToString(parts));
    const io::MemorySource source(file);
    const auto modules = bnb().find(source);
    ASSERT_EQ(modules.size(), 1U);
    expect_error(code, parts, [&] { (void)bnb().read(source, modules[0]); });
  };
  for (const std::string part : {"", ".absmax", ".nested_absmax", ".nested_quant_map", ".quant_map",
                                 ".quant_state.bitsandbytes__nf4"}) {
    expect_bad(ErrorCode::bad_file, without(good, kWeight + part), {"no tensor", kWeight + part});
    for (const TensorType type : {TensorType::f16, TensorType::f4}) {
      expect_bad(ErrorCode::bad_file, with(good, zero_tensor(kWeight + part, type, {10, 3, 2})),
                 {kWeight + part});
    }
    expect_bad(ErrorCode::bad_file, with(good, zero_tensor(kWeight + part, TensorType::u8, {0})),
               {kWeight + part});
  }
  const auto table = [](const char* part, std::span<const float> from, std::size_t at) {
    std::vector<float> values(from.begin(), from.end());
    values[at] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(values[at]) ^ 1U);
    return tensor_from(kWeight + part, TensorType::f32, {values.size()}, values);
  };
  expect_bad(ErrorCode::bad_file, with(good, table(".quant_map", Nf4Levels::kLevels, 9)),
             {kWeight + ".quant_map", "at 9", "0.1609302"});
  expect_bad(ErrorCode::unsupported, with(good, table(".nested_quant_map", nested_table(), 200)),
             {kWeight + ".nested_quant_map", "at 200"});
  expect_bad(
      ErrorCode::bad_file,
      [&] {
        WrittenLayer both = good;
        both.tensors.push_back(text_tensor(kWeight + ".quant_state.bitsandbytes__fp4", "{}"));
        return both;
      }(),
      {kWeight, "expected one"});
}

TEST(BitsandbytesLayout, JunkInTheTextIsRefused) {
  const WrittenLayer good = bnb().write(random_layer("nf4:double=true", 6, 128, 1));
  const nlohmann::json state = {{"quant_type", "nf4"},     {"blocksize", 64},
                                {"dtype", "float16"},      {"shape", {6, 128}},
                                {"nested_blocksize", 256}, {"nested_dtype", "float32"},
                                {"nested_offset", 0.5}};
  const auto expect_refused = [&](const std::string& text, const std::vector<std::string>& parts) {
    SCOPED_TRACE(text);
    const io::MemorySource source(with(good, text_tensor(kState, text)));
    const auto modules = bnb().find(source);
    ASSERT_EQ(modules.size(), 1U);
    try {
      (void)bnb().read(source, modules[0]);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::bad_file || error.code() == ErrorCode::unsupported);
      for (const std::string& part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      }
    }
  };
  expect_refused("", {kState});
  expect_refused("[]", {kState});
  expect_refused(R"({"quant_type": "nf4")", {kState, "damaged JSON"});
  expect_refused(R"({"shape": [1], "shape": [1]})", {kState, "duplicate"});
  expect_refused(R"({"shape": [[[[[[1]]]]]]})", {kState, "nested deeper"});
  nlohmann::json another = state;
  another["quant_type"] = "fp4";
  expect_refused(another.dump(), {"quant_type is \"fp4\", expected \"nf4\""});
  another["quant_type"] = 4;
  expect_refused(another.dump(), {"quant_type is 4, expected "});
  for (const char* key :
       {"quant_type", "blocksize", "dtype", "shape", "nested_dtype", "nested_offset"}) {
    nlohmann::json lacking = state;
    lacking.erase(key);
    expect_refused(lacking.dump(), {kState, std::string("no ") + key});
    for (const char* junk : {"null", "[]", "{}", "-1", "0", "1.5", "\"x\"", "[0, 128]", "[6, -2]",
                             "[9223372036854775808, 4]", "[18446744073709551615, 2]", "1e300"}) {
      nlohmann::json wrong = state;
      wrong[key] = nlohmann::json::parse(junk);
      const bool allowed = (std::string(key) == "dtype" && junk[0] == '"') ||
                           (std::string(key) == "nested_offset" &&
                            (std::isdigit(junk[0]) != 0 || junk[0] == '-') && *junk != '1') ||
                           (std::string(key) == "nested_offset" && std::string(junk) == "1.5");
      if (!allowed) expect_refused(wrong.dump(), {kName});
    }
  }
  nlohmann::json other = state;
  other["nested_blocksize"] = 128;
  expect_refused(other.dump(), {kState, "nested_blocksize", "256"});
  other = state;
  other["nested_offset"] = 0.1;  // no f32
  expect_refused(other.dump(), {kState, "nested_offset", "f32"});
  other = state;
  other["shape"] = {12, 64};
  other["blocksize"] = 128;
  expect_refused(other.dump(), {kWeight + ".absmax", "[6]"});
}

TEST(BitsandbytesLayout, RefusesWhatItCannotHold) {
  const auto expect_refused = [](const std::string& spec, std::vector<std::size_t> shape,
                                 const std::string& part) {
    expect_error(ErrorCode::unsupported, {"bitsandbytes", part},
                 [&] { bnb().check(parse_format(spec), shape); });
  };
  bnb().check(parse_format("nf4:block=128,double=true"), std::vector<std::size_t>{3, 256});
  expect_refused("int4", {8, 64}, "int4");
  expect_refused("fp4", {8, 64}, "format 'fp4");
  expect_refused("nf4:scale=bf16", {8, 64}, "scale=bf16");
  expect_refused("nf4", {8, 100}, "block 64");
  expect_refused("nf4", {64}, "[64]");
  expect_error(ErrorCode::unsupported, {kName, "blocks of 16"},
               [] { (void)bnb().write(random_layer("nf4:block=16", 2, 64, 1)); });
}

TEST(BitsandbytesLayout, ConfigSaysWhatTransformersReads) {
  EXPECT_EQ(
      bnb().config(parse_format("nf4:double=true"), std::vector<std::string>{"lm_head"}).dump(),
      R"({"quant_method":"bitsandbytes","_load_in_4bit":true,"_load_in_8bit":false,)"
      R"("load_in_4bit":true,"load_in_8bit":false,"bnb_4bit_quant_type":"nf4",)"
      R"("bnb_4bit_use_double_quant":true,"bnb_4bit_compute_dtype":"bfloat16",)"
      R"("bnb_4bit_quant_storage":"uint8","llm_int8_skip_modules":["lm_head"]})");
}

}  // namespace
}  // namespace nybble::test
