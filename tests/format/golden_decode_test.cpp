// Blocks that other programs store (ggml, gpt-oss) and scalar casts (PyTorch, MX-QLLM), decoded
// here.

#include <gtest/gtest.h>

#include <cmath>

#include "nybble/format/element.h"
#include "nybble/format/registry.h"
#include "nybble/io/npy.h"
#include "nybble/numeric/e2m1.h"
#include "nybble/numeric/e4m3.h"
#include "nybble/numeric/e5m2.h"
#include "nybble/numeric/e8m0.h"
#include "tests/format/golden.h"
#include "tests/support/shared.h"

namespace nybble::test {
namespace {

void set_code(QuantizedMatrix& matrix, std::size_t row, std::size_t col, int code) {
  std::uint8_t& byte = matrix.codes[row * (matrix.padded_cols / 2) + col / 2];
  byte = static_cast<std::uint8_t>(col % 2 == 0 ? (byte & 0xF0) | code : (byte & 0x0F) | code << 4);
}

/// ggml's arrangement: byte j of a half block holds element j low and element j + count high.
void set_ggml_codes(QuantizedMatrix& matrix, std::size_t row, std::size_t col,
                    const std::uint8_t* bytes, std::size_t count) {
  for (std::size_t j = 0; j < count; ++j) {
    set_code(matrix, row, col + j, bytes[j] & 15);
    set_code(matrix, row, col + count + j, bytes[j] >> 4);
  }
}

/// Compares all groups but those whose scale byte is `excluded`; returns how many were compared.
std::size_t expect_same_groups(const QuantizedMatrix& matrix, std::uint8_t excluded,
                               std::span<const float> expected, const std::string& label) {
  const std::vector<float> values = dequantized(matrix);
  EXPECT_EQ(values.size(), expected.size()) << label;
  if (values.size() != expected.size()) return 0;
  std::size_t compared = 0;
  for (std::size_t i = 0; i < matrix.scales.size(); ++i) {
    if (matrix.scales[i] == excluded) continue;
    expect_same_values(std::span(values).subspan(i * matrix.group, matrix.group),
                       expected.subspan(i * matrix.group, matrix.group),
                       label + " group " + std::to_string(i));
    ++compared;
  }
  return compared;
}

/// The raw blocks of a ggml case: an input of random bytes, or the output of ggml's own quantizer.
NpyArray ggml_blocks(const GoldenCase& golden) {
  return read_npy(golden.has("blocks") ? golden.files.at("blocks") : golden.input_file);
}

TEST(GoldenDecode, GgmlMxfp4) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  std::size_t cases = 0;
  std::size_t groups = 0;
  for (const GoldenCase& golden : golden_cases(root, "ggml")) {
    if (golden.variant != "mxfp4" && golden.variant != "mxfp4_decode") continue;
    const NpyArray array = ggml_blocks(golden);
    const auto bytes = array.as<std::uint8_t>();
    QuantizedMatrix matrix(parse_format("mxfp4"), bytes.size() / 17, 32);
    for (std::size_t row = 0; row < matrix.rows; ++row) {
      matrix.scales[row] = bytes[row * 17];
      set_ggml_codes(matrix, row, 0, &bytes[row * 17 + 1], 16);
    }
    // 255: NaN to OCP, refused by ggml's validator, 2^127 to its decoder.
    groups += expect_same_groups(matrix, 255, golden.floats("dq"), golden.label);
    ++cases;
  }
  EXPECT_GE(cases, 15U);
  EXPECT_GE(groups, 900U);
}

TEST(GoldenDecode, GgmlNvfp4) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  std::size_t cases = 0;
  std::size_t groups = 0;
  for (const GoldenCase& golden : golden_cases(root, "ggml")) {
    if (golden.variant != "nvfp4" && golden.variant != "nvfp4_decode") continue;
    const NpyArray array = ggml_blocks(golden);
    const auto bytes = array.as<std::uint8_t>();
    QuantizedMatrix matrix(parse_format("nvfp4"), bytes.size() / 36, 64);
    for (std::size_t row = 0; row < matrix.rows; ++row) {
      for (std::size_t s = 0; s < 4; ++s) {
        matrix.scales[row * 4 + s] = bytes[row * 36 + s];
        set_ggml_codes(matrix, row, s * 16, &bytes[row * 36 + 4 + s * 8], 8);
      }
    }
    // 0x7F: NaN to OCP, 0 to ggml's decoder.
    groups += expect_same_groups(matrix, 0x7F, golden.floats("dq"), golden.label);
    ++cases;
  }
  EXPECT_GE(cases, 15U);
  EXPECT_GE(groups, 1900U);
}

TEST(GoldenDecode, GptOss) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  const std::vector<GoldenCase> all = golden_cases(root, "gptoss_mxfp4");
  ASSERT_EQ(all.size(), 1U);
  const NpyArray blocks = read_npy(all[0].input_file);
  const NpyArray scales = read_npy(root / "gptoss_mxfp4" / "scales.npy");
  const auto codes = blocks.as<std::uint8_t>();
  const auto bytes = scales.as<std::uint8_t>();
  const std::size_t groups = scales.shape.back();
  QuantizedMatrix matrix(parse_format("mxfp4"), bytes.size() / groups, groups * 32);
  matrix.scales.assign(bytes.begin(), bytes.end());
  matrix.codes.assign(codes.begin(), codes.end());  // adjacent pairs, as here
  // 255 is a number there.
  EXPECT_GE(expect_same_groups(matrix, 255, all[0].floats("dq"), all[0].label), 80U);
}

TEST(GoldenDecode, ScalarCasts) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  std::size_t cases = 0;
  for (const GoldenCase& golden : golden_cases(root, "scalar_fp8")) {
    const std::vector<float>& x = golden.input;
    ASSERT_GE(x.size(), 5000U);
    const auto codes = [&](const char* output, auto cast) {
      std::vector<std::uint8_t> ours;
      for (const float v : x) ours.push_back(cast(v).bits);
      expect_same_bytes(ours, golden.bytes(output), output);
    };
    const auto values = [&](const char* output, auto cast) {
      std::vector<float> ours;
      std::vector<float> expected = golden.floats(output);
      for (std::size_t i = 0; i < x.size(); ++i) {
        // Inf and NaN pass through the emulation; a type without them saturates.
        if (!std::isfinite(x[i])) expected[i] = cast(x[i]);
        ours.push_back(cast(x[i]));
      }
      expect_same_values(ours, expected, output);
    };
    ++cases;
    if (golden.variant == "c10") {
      codes("e4m3fn_code", [](float v) { return E4M3::from_float_unsaturated(v); });
      codes("e5m2_code", [](float v) { return E5M2::from_float_unsaturated(v); });
      codes("e8m0_code", [](float v) { return E8M0::from_float(v); });
      continue;
    }
    ASSERT_EQ(golden.variant, "mxqllm_emulation");
    values("e4m3x480_value",
           [](float v) { return E4M3x480::from_float(v, TieRule::away).to_float(); });
    values("e5m2_value", [](float v) { return E5M2::from_float(v, TieRule::away).to_float(); });
    const auto e2m1 = [](LevelTies ties) {
      return [ties](float v) {
        const EncodeTable table =
            make_encode_table(kE2M1Levels, ties, ScaleLayout::symmetric, false);
        return kE2M1Levels[encode_scaled(table, v)];
      };
    };
    values("e2m1_value", e2m1(LevelTies::away));
    values("e2m1_even_value", e2m1(LevelTies::even));
  }
  EXPECT_EQ(cases, 2U);
}

}  // namespace
}  // namespace nybble::test
