// NF4 and bitsandbytes' FP4 against bitsandbytes' default backend, nested scales included.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "nybble/format/nf4.h"
#include "nybble/format/registry.h"
#include "nybble/io/npy.h"
#include "nybble/quantize/rtn.h"
#include "tests/format/golden.h"
#include "tests/support/shared.h"

namespace nybble::test {
namespace {

/// "fp4_b128" -> "fp4_bnb:block=128"
std::string spec_of(const std::string& variant) {
  const std::size_t split = variant.find("_b");
  return (variant.substr(0, split) == "nf4" ? "nf4" : "fp4_bnb") +
         (":block=" + variant.substr(split + 2));
}

/// Two codes a byte, the first in the HIGH nibble, an odd count filled up with a zero.
std::vector<std::uint8_t> bnb_codes(const GoldenCase& golden, std::size_t count, bool merge_zeros) {
  std::vector<std::uint8_t> out;
  for (const std::uint8_t byte : golden.bytes("packed")) {
    out.push_back(byte >> 4);
    out.push_back(byte & 15);
  }
  EXPECT_EQ(out.size(), count + count % 2) << golden.label;
  out.resize(count);
  if (merge_zeros) std::replace(out.begin(), out.end(), std::uint8_t{8}, std::uint8_t{0});
  return out;
}

TEST(GoldenBnb, BlocksOfTheFlattenedTensorAreReproduced) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  SerialExecutor executor;
  std::size_t cases = 0;
  std::size_t nested = 0;
  for (const GoldenCase& golden : golden_cases(root, "bnb")) {
    const std::string spec = spec_of(golden.variant);
    const bool fp4 = spec.starts_with("fp4");
    // Blocks run across row ends.
    const MatrixView flat(golden.input.data(), 1, golden.input.size());
    const QuantizedMatrix q = quantize_rtn(flat, parse_format(spec), executor);
    expect_same_values(dequantized(q), golden.floats("dq"), golden.label + " dq");
    expect_same_values(decoded_scales(q), golden.floats("absmax"), golden.label + " absmax");
    expect_same_bytes(unpacked_codes(q, fp4), bnb_codes(golden, flat.cols, fp4),
                      golden.label + " codes");
    ++cases;
    if (!golden.has("nested_dq")) continue;
    ++nested;
    const QuantizedMatrix twice = quantize_rtn(flat, parse_format(spec + ",double=true"), executor);
    const std::string label = golden.label + " nested";
    expect_same_bytes(twice.codes, q.codes, label + " codes");
    expect_same_values(std::vector<float>{twice.nested_offset}, golden.floats("nested_offset"),
                       label + " offset");
    expect_same_bytes(twice.scales, golden.bytes("nested_absmax_u8"), label + " absmax codes");
    expect_same_values(twice.nested_scales, golden.floats("nested_absmax2"), label + " absmax2");
    expect_same_values(decoded_scales(twice), golden.floats("nested_absmax_dq"), label + " absmax");
    expect_same_values(dequantized(twice), golden.floats("nested_dq"), label + " dq");
  }
  EXPECT_GE(cases, 64U);
  EXPECT_GE(nested, 10U);
}

TEST(GoldenBnb, TablesAreThePublishedOnes) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats/bnb");
  const auto table = [&](const char* name) { return read_npy(root / name).as_f32(); };
  expect_same_values(nested_table(), table("code_dynamic8.npy"), "dynamic map");
  expect_same_values(Nf4Levels::kLevels, table("code_nf4.npy"), "NF4");
  expect_same_values(BnbFp4Levels::kLevels, table("code_fp4.npy"), "FP4");
}

}  // namespace
}  // namespace nybble::test
