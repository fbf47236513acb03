#include "src/io/gguf_blocks.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/io/npy.h"
#include "nybble/quantize/rtn.h"
#include "tests/format/golden.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"
#include "tests/support/shared.h"

namespace nybble::test {
namespace {

const std::map<std::string, GgufType> kTypes = {
    {"q4_0", GgufType::q4_0},     {"iq4_nl", GgufType::iq4_nl}, {"mxfp4", GgufType::mxfp4},
    {"nvfp4", GgufType::nvfp4},   {"q4_1", GgufType::q4_1},     {"q4_K", GgufType::q4_k},
    {"iq4_xs", GgufType::iq4_xs},
};

/// `count` blocks as a tensor of one row.
GgufTensor one_row(GgufType type, std::span<const std::uint8_t> blocks) {
  const std::size_t count = blocks.size() / gguf_block_bytes(type);
  return {"t", type, {1, count * gguf_block_values(type)}, std::as_bytes(blocks)};
}

std::vector<std::uint8_t> as_u8(const std::vector<std::byte>& bytes) {
  const auto* const begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
  return {begin, begin + bytes.size()};
}

/// Whether nybble takes the scale of a block for NaN where ggml's decoder has a number.
bool decodes_to_nan(GgufType type, std::span<const std::uint8_t> block, std::size_t value) {
  if (type == GgufType::mxfp4) return block[0] == 0xFF;
  return type == GgufType::nvfp4 && block[value / 16] == 0x7F;
}

// Other people's blocks, made by ggml's quantizers or of random bytes: their values are ggml's bit
// for bit, and the blocks come back.
TEST(GgufBlocks, GoldenBlocksDecodeAsGgmlDoesAndComeBack) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  std::map<GgufType, std::size_t> blocks_of;
  for (const GoldenCase& golden : golden_cases(root, "ggml")) {
    const std::string variant = golden.variant.substr(0, golden.variant.find("_decode"));
    const auto found = kTypes.find(variant);
    ASSERT_NE(found, kTypes.end()) << golden.label;
    const GgufType type = found->second;
    const NpyArray array =
        read_npy(golden.has("blocks") ? golden.files.at("blocks") : golden.input_file);
    const auto blocks = array.as<std::uint8_t>();
    const GgufTensor tensor = one_row(type, blocks);
    const QuantizedMatrix matrix = io::read_blocks(tensor, "t");
    std::vector<float> values = dequantized(matrix);
    const std::vector<float> expected = golden.floats("dq");
    ASSERT_EQ(values.size(), expected.size()) << golden.label;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::size_t size = gguf_block_bytes(type);
      const std::size_t in_block = i % gguf_block_values(type);
      const auto block = blocks.subspan(i / gguf_block_values(type) * size, size);
      if (!decodes_to_nan(type, block, in_block)) continue;
      EXPECT_TRUE(std::isnan(values[i])) << golden.label << " " << i;
      values[i] = expected[i];
    }
    expect_same_values(values, expected, golden.label);
    expect_same_bytes(as_u8(io::write_blocks(matrix, type, "t")), blocks, golden.label);
    expect_same_values(io::decode_gguf(tensor, "t"), dequantized(matrix), golden.label);
    blocks_of[type] += blocks.size() / gguf_block_bytes(type);
  }
  for (const auto& [name, type] : kTypes) {
    EXPECT_GE(blocks_of[type], gguf_block_values(type) == 256 ? 170U : 470U) << name;
  }
}

TEST(GgufBlocks, EveryByteOfABlockComesBack) {
  for (const auto& [name, type] : kTypes) {
    const std::size_t size = gguf_block_bytes(type);
    const std::size_t per_row = 3;
    std::vector<std::uint8_t> blocks(5 * per_row * size);
    std::uint32_t state = 1;
    for (std::uint8_t& byte : blocks) {
      state = state * 1664525 + 1013904223;
      byte = static_cast<std::uint8_t>(state >> 24);
    }
    if (type == GgufType::nvfp4) {
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        if (i % size < 4) blocks[i] &= 0x7F;
      }
    }
    for (std::size_t b = 0; b < blocks.size() && gguf_block_values(type) == 256; b += size) {
      blocks[b + 1] &= 0xBF;  // no NaN in f16
      blocks[b + 3] &= 0xBF;
    }
    const GgufTensor tensor = {
        "t", type, {5, per_row * gguf_block_values(type)}, std::as_bytes(std::span(blocks))};
    const QuantizedMatrix matrix = io::read_blocks(tensor, "t");
    EXPECT_EQ(matrix.rows, 5U);
    expect_same_bytes(as_u8(io::write_blocks(matrix, type, "t")), blocks, name);
    // Row 3 read alone is row 3.
    const std::span<const std::uint8_t> row =
        std::span(blocks).subspan(3 * per_row * size, per_row * size);
    const std::vector<float> alone = dequantized(io::read_blocks(one_row(type, row), "t"));
    const std::vector<float> all = dequantized(matrix);
    expect_same_values(std::span(all).subspan(3 * matrix.cols, matrix.cols), alone, name);
  }
}

TEST(GgufBlocks, EveryScaleOfOneByteComesBackOrIsRefused) {
  for (int scale = 0; scale < 256; ++scale) {
    std::vector<std::uint8_t> mxfp4(17, 0x9E);
    mxfp4[0] = static_cast<std::uint8_t>(scale);
    const QuantizedMatrix matrix = io::read_blocks(one_row(GgufType::mxfp4, mxfp4), "t");
    EXPECT_EQ(as_u8(io::write_blocks(matrix, GgufType::mxfp4, "t")), mxfp4);

    std::vector<std::uint8_t> nvfp4(36, 0x9E);
    for (std::size_t i = 0; i < 4; ++i) nvfp4[i] = 0x38;
    nvfp4[2] = static_cast<std::uint8_t>(scale);
    const GgufTensor tensor = one_row(GgufType::nvfp4, nvfp4);
    if (scale < 128) {
      const QuantizedMatrix same = io::read_blocks(tensor, "t");
      EXPECT_EQ(as_u8(io::write_blocks(same, GgufType::nvfp4, "t")), nvfp4);
    } else {
      expect_error(ErrorCode::bad_file, {"where", "scale 2 of row 0", fmt::format("{:02x}", scale)},
                   [&] { io::read_blocks(tensor, "where"); });
    }
  }
}

// Every number a super-block's 6 bits can be, in every place, by enumeration.
TEST(GgufBlocks, UnpacksSixBitsAsGgmlDoes) {
  for (std::size_t j = 0; j < 8; ++j) {
    for (int value = 0; value < 64; ++value) {
      // ggml's get_scale_min_k4 and IQ4_XS's expression, turned around for one number.
      std::vector<std::uint8_t> q4_k(144);
      std::vector<std::uint8_t> offset(144);
      std::vector<std::uint8_t> iq4_xs(136);
      if (j < 4) {
        q4_k[4 + j] = offset[8 + j] = static_cast<std::uint8_t>(value);
      } else {
        q4_k[8 + j] = static_cast<std::uint8_t>(value & 15);
        q4_k[j] = static_cast<std::uint8_t>(value >> 4 << 6);
        offset[8 + j] = static_cast<std::uint8_t>((value & 15) << 4);
        offset[4 + j] = static_cast<std::uint8_t>(value >> 4 << 6);
      }
      q4_k[1] = offset[3] = iq4_xs[1] = 0x3C;  // 1.0
      iq4_xs[4 + j / 2] = static_cast<std::uint8_t>((value & 15) << (4 * (j % 2)));
      iq4_xs[2 + j / 4] = static_cast<std::uint8_t>(value >> 4 << (2 * (j % 4)));
      const QuantizedMatrix scaled = io::read_blocks(one_row(GgufType::q4_k, q4_k), "t");
      const QuantizedMatrix moved = io::read_blocks(one_row(GgufType::q4_k, offset), "t");
      const QuantizedMatrix signed_scales = io::read_blocks(one_row(GgufType::iq4_xs, iq4_xs), "t");
      for (std::size_t g = 0; g < 8; ++g) {
        EXPECT_EQ(scaled.scale(0, g).positive, g == j ? value : 0);
        EXPECT_EQ(scaled.scale(0, g).offset, 0);
        EXPECT_EQ(moved.scale(0, g).positive, 0);
        EXPECT_EQ(moved.scale(0, g).offset, g == j ? -value : 0);
        EXPECT_EQ(signed_scales.scale(0, g).positive, (g == j ? value : 0) - 32);
      }
    }
  }
}

TEST(GgufBlocks, RefusesSuperBlocksThatCouldNotBeWrittenAgain) {
  std::vector<std::uint8_t> block(144);
  block[2] = 0x01;
  block[3] = 0x7C;  // a signalling NaN
  expect_error(ErrorCode::bad_file, {"where", "nan", "super-block"},
               [&] { (void)io::read_blocks(one_row(GgufType::q4_k, block), "where"); });
  block[3] = 0x7E;  // a quiet one
  QuantizedMatrix matrix = io::read_blocks(one_row(GgufType::q4_k, block), "t");
  EXPECT_EQ(as_u8(io::write_blocks(matrix, GgufType::q4_k, "t")), block);
  const auto refuse = [](const QuantizedMatrix& q, GgufType type, const std::string& what) {
    expect_error(ErrorCode::unsupported, {"where", what},
                 [&] { (void)io::write_blocks(q, type, "where"); });
  };
  matrix.scales[3] = 64;
  refuse(matrix, GgufType::q4_k, "a scale byte of 64");
  matrix.scales[3] = 63;
  matrix.offsets[7] = 64;
  refuse(matrix, GgufType::q4_k, "an offset byte of 64");
  QuantizedMatrix xs(parse_format("iq4_xs"), 1, 256);
  for (const int bad : {32, -33}) {
    xs.scales[1] = static_cast<std::uint8_t>(bad);
    refuse(xs, GgufType::iq4_xs, "a scale byte");
  }
  xs.scales[1] = 0;
  xs.nested_scales[0] = 1.0001F;
  refuse(xs, GgufType::iq4_xs, "not one of f16");
}

TEST(GgufBlocks, PlacesEveryCodeWhereGgmlDoes) {
  // One code set at a time, found again by its value: int4's code 15 is 7 times the scale.
  for (std::size_t k = 0; k < 32; ++k) {
    std::vector<std::uint8_t> block(18, 0x88);
    block[0] = 0x00;
    block[1] = 0x3C;  // 1.0
    std::uint8_t& byte = block[2 + k % 16];
    byte = static_cast<std::uint8_t>(k < 16 ? 0x8F : 0xF8);
    const QuantizedMatrix matrix = io::read_blocks(one_row(GgufType::q4_0, block), "t");
    for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(matrix.value(0, i), i == k ? 7 : 0);
  }
}

TEST(GgufBlocks, PlainTypesBecomeF32) {
  const auto decode = [](GgufType type, std::vector<std::uint8_t> bytes) {
    const std::size_t values = bytes.size() / gguf_block_bytes(type) * gguf_block_values(type);
    return io::decode_gguf({"t", type, {values}, std::as_bytes(std::span(bytes))}, "t");
  };
  EXPECT_EQ(decode(GgufType::f32, {0, 0, 0x80, 0x3F}), std::vector<float>{1});
  EXPECT_EQ(decode(GgufType::f16, {0, 0x3C, 0, 0xC0}), (std::vector<float>{1, -2}));
  EXPECT_EQ(decode(GgufType::bf16, {0x80, 0x3F}), std::vector<float>{1});
  EXPECT_EQ(decode(GgufType::f64, {0, 0, 0, 0, 0, 0, 0xF0, 0x3F}), std::vector<float>{1});
  std::vector<std::uint8_t> q8_0(34);
  q8_0[1] = 0xB8;  // -0.5
  for (std::size_t i = 0; i < 32; ++i) q8_0[2 + i] = static_cast<std::uint8_t>(i * 8);
  const std::vector<float> values = decode(GgufType::q8_0, q8_0);
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(values[i], -0.5F * static_cast<float>(static_cast<std::int8_t>(i * 8)));
  }
  expect_error(ErrorCode::unsupported, {"Q6_K", "\"t\""}, [] {
    const std::vector<std::byte> bytes(210);
    (void)io::decode_gguf({"t", GgufType::q6_k, {256}, bytes}, "tensor \"t\"");
  });
}

TEST(GgufBlocks, WritesOnlyWhatABlockCanHold) {
  SerialExecutor executor;
  const std::vector<float> x = normal_values(2 * 512, 1);
  const auto type_of = [&](const std::string& spec, std::size_t cols) {
    return gguf_type_for(parse_format(spec), std::vector<std::size_t>{2, cols});
  };
  EXPECT_EQ(type_of("int4", 32), GgufType::q4_0);
  EXPECT_EQ(type_of("iq4_nl", 64), GgufType::iq4_nl);
  EXPECT_EQ(type_of("q4_1", 64), GgufType::q4_1);
  EXPECT_EQ(type_of("q4_k", 512), GgufType::q4_k);
  EXPECT_EQ(type_of("iq4_xs", 256), GgufType::iq4_xs);
  EXPECT_EQ(type_of("mxfp4:rule=even,ties=away", 32), GgufType::mxfp4);
  EXPECT_EQ(type_of("nvfp4:search=4over6", 64), GgufType::nvfp4);
  for (const char* spec : {"int4:group=64", "int4:scale=bf16", "int4:zero_point=true",
                           "mxfp4:group=16", "fp4", "nf4", "amxfp4"}) {
    expect_error(ErrorCode::unsupported, {"GGUF", std::string("'") + spec + "'"},
                 [&] { type_of(spec, 256); });
  }
  expect_error(ErrorCode::unsupported, {"Q4_0", "32", "[2, 33]"}, [&] { type_of("int4", 33); });
  expect_error(ErrorCode::unsupported, {"NVFP4", "64", "[2, 32]"}, [&] { type_of("nvfp4", 32); });

  expect_error(ErrorCode::unsupported, {"Q4_K", "256", "[2, 128]"}, [&] { type_of("q4_k", 128); });
  const QuantizedMatrix int4 = quantize_rtn({x.data(), 2, 512}, parse_format("int4"), executor);
  for (const GgufType type : {GgufType::q4_1, GgufType::q4_k, GgufType::q8_0}) {
    expect_error(ErrorCode::unsupported, {"where", "'int4'"},
                 [&] { (void)io::write_blocks(int4, type, "where"); });
  }
  QuantizedMatrix scaled = int4;
  scaled.tensor.scale = 2;
  expect_error(ErrorCode::unsupported, {"tensor scale of 2"},
               [&] { (void)io::write_blocks(scaled, GgufType::q4_0, "where"); });
  QuantizedMatrix negative = quantize_rtn({x.data(), 2, 512}, parse_format("nvfp4"), executor);
  negative.scales[3] |= 0x80;
  expect_error(ErrorCode::unsupported, {"negative scale"},
               [&] { (void)io::write_blocks(negative, GgufType::nvfp4, "where"); });
}

}  // namespace
}  // namespace nybble::test
