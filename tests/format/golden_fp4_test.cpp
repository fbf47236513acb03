// AMXFP4, MXFP4 and NVFP4 against the results of the code that defines them, bit for bit.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "nybble/format/registry.h"
#include "nybble/quantize/rtn.h"
#include "tests/format/golden.h"
#include "tests/support/shared.h"

namespace nybble::test {
namespace {

/// A variant of the golden set and the format that is to reproduce it.
struct Match {
  const char* format;
  const char* variant;
  const char* spec;
  std::size_t least_cases;  ///< to be compared, so that an empty index is no success
};

constexpr Match kMatches[] = {
    {"amxfp4", "fp8_e5m2", "amxfp4", 23},
    {"amxfp4", "fp8_e5m2_g16", "amxfp4:group=16", 3},
    {"amxfp4", "fp8_e5m2_g64", "amxfp4:group=64", 3},
    {"amxfp4", "fp8_e4m3x480", "amxfp4:scale=e4m3", 23},
    {"amxfp4", "fp32scale", "amxfp4:scale=f32", 23},
    {"amxfp4", "pot", "amxfp4:scale=e8m0", 23},
    {"amxfp4", "potr", "amxfp4:scale=e8m0,rule=even", 23},
    {"mx_torchao", "mxfp4_floor", "mxfp4", 14},
    {"mx_torchao", "mxfp4_even", "mxfp4:rule=even", 14},
    {"mx_torchao", "mxfp4_ceil", "mxfp4:rule=ceil", 14},
    {"mx_torchao", "mxfp4_rceil", "mxfp4:rule=rceil", 14},
    {"microxcaling", "mxfp4_nearest_cuda", "mxfp4:ties=away", 17},
    {"microxcaling", "mxfp4_even_cuda", "mxfp4", 17},
    {"mxfp4_compressed_tensors", "pack", "mxfp4:rule=even", 13},
    {"mxfp4_fouroversix", "fouroversix_mxfp4_static_6", "mxfp4:rule=rceil", 13},
    {"mxfp4_modelopt", "ceil_amax_over_6", "mxfp4:rule=rceil,ties=zero", 13},
    {"mxfp4_mxqllm", "pot", "mxfp4:ties=away", 16},
    {"mxfp4_mxqllm", "potr", "mxfp4:rule=even,ties=away", 16},
    {"mxfp4_mxqllm", "fp32scale", "fp4:scale=f32,ties=away", 16},
    {"quark_scale", "even_fp4", "mxfp4:rule=even", 12},
    {"nvfp4", "modelopt", "nvfp4", 13},
};

/// Variants of the same folders that no format here is meant to reproduce.
struct Other {
  const char* format;
  const char* variant;  ///< or its beginning
  const char* reason;
};

constexpr Other kOthers[] = {
    {"amxfp4", "syncmant", "undocumented scale modes"},
    {"mx_torchao", "mxfp6", "not 4 bits"},
    {"mx_torchao", "mxfp8", "not 4 bits"},
    {"microxcaling", "mxfp6", "not 4 bits"},
    {"microxcaling", "mxfp8", "not 4 bits"},
    {"microxcaling", "mxint", "integer elements"},
    {"microxcaling", "mxfp4_nearest", "PyTorch path: inexact log2 and rounding (formats.md 2)"},
    {"microxcaling", "mxfp4_even", "PyTorch path: inexact log2 (formats.md 2)"},
    {"microxcaling", "mxfp4_floor", "PyTorch path, rounding down"},
    {"mxfp4_fouroversix", "fouroversix_mxfp4_static_4", "maps the maximum to 4"},
    {"mxfp4_mxqllm", "fp8_", "symmetric FP8 scales per 32: a format of nobody"},
    {"mxfp4_mxqllm", "int4_", "MXINT4"},
    {"quark_scale", "even_fp6", "not 4 bits"},
    {"quark_scale", "even_fp8", "not 4 bits"},
    {"nvfp4", "torchao_", "other arithmetic order and scale floor (formats.md 4)"},
    {"nvfp4", "compressed_tensors", "reciprocal tensor scale: other last bits (formats.md 4)"},
    {"nvfp4", "autoround", "reciprocals: other last bits (formats.md 4)"},
    {"nvfp4", "fouroversix_nvfp4_mse", "golden_four_over_six_test.cpp"},
    {"nvfp4", "fouroversix_", "rules that are not offered"},
};

/// Why a case is not compared, or null.
const char* excluded_case(const GoldenCase& golden) {
  if (golden.format == "amxfp4" && golden.name == "nonfinite") {
    return "what the kernel does with Inf and NaN; ours makes the group NaN or refuses it";
  }
  return nullptr;
}

/// Why a group of this absmax is not compared, or null: where the reference's own rule is inexact.
const char* excluded_group(const GoldenCase& golden, float absmax) {
  const float ratio = absmax / 6;
  if (golden.format == "mxfp4_modelopt") {
    const auto log2 = static_cast<float>(std::log2(static_cast<double>(ratio)));
    if (ratio > 0 && log2 == std::floor(log2) && ratio > std::ldexp(1.0F, static_cast<int>(log2))) {
      return "ceil(log2) in f32 misses a ratio a few ulps above a power of two";
    }
  }
  if (golden.format == "mxfp4_fouroversix" && ratio > 0 && ratio < 0x1p-126F) {
    return "scales that are f32 subnormals always round up to 2^-126 there";
  }
  return nullptr;
}

/// Our result and the reference's, excluded groups overwritten with ours.
class Comparison {
 public:
  Comparison(const GoldenCase& golden, const QuantizedMatrix& ours) : golden_(golden), q_(ours) {
    for (std::size_t r = 0; r < q_.rows; ++r) {
      for (std::size_t g = 0; g < q_.groups; ++g) {
        float absmax = 0;
        const std::size_t end = std::min(q_.cols, (g + 1) * q_.group);
        for (std::size_t c = g * q_.group; c < end; ++c) {
          absmax = std::max(absmax, std::fabs(golden.view().at(r, c)));
        }
        excluded_.push_back(excluded_group(golden, absmax) != nullptr);
      }
    }
  }
  [[nodiscard]] std::size_t excluded_groups() const {
    return static_cast<std::size_t>(std::count(excluded_.begin(), excluded_.end(), true));
  }

  void values(const std::string& output, const std::vector<float>& ours) const {
    if (!golden_.has(output)) return;
    expect_same_values(ours, merged(golden_.floats(output), ours), golden_.label + " " + output);
  }
  void bytes(const std::string& output, const std::vector<std::uint8_t>& ours) const {
    if (!golden_.has(output)) return;
    expect_same_bytes(ours, merged(golden_.bytes(output), ours), golden_.label + " " + output);
  }
  /// E8M0 has no zero. The reference's f32 is 0 for a sign that does not occur; ours holds byte 0.
  void scales(const std::string& output, bool negative) const {
    if (!golden_.has(output)) return;
    std::vector<float> expected = golden_.floats(output);
    if (q_.format.info().scale_type == ScaleType::e8m0) {
      std::replace(expected.begin(), expected.end(), 0.0F, 0x1p-127F);
    }
    expect_same_values(decoded_scales(q_, negative), expected, golden_.label + " " + output);
  }
  /// Element 2i in the low nibble; -0 may stand for 0. Under a scale of zero every code decodes to
  /// zero, and what 0/0 became in a reference (7 in ModelOpt) is not compared.
  void codes() const {
    std::vector<std::uint8_t> expected;
    for (const char* packed : {"packed", "weight_packed"}) {
      if (!golden_.has(packed)) continue;
      for (const std::uint8_t byte : golden_.bytes(packed)) {
        expected.push_back(byte & 15);
        expected.push_back(byte >> 4);
      }
    }
    if (golden_.has("codes")) expected = golden_.bytes("codes");
    if (expected.empty() || golden_.name == "nonfinite") return;  // codes of a NaN mean nothing
    std::replace(expected.begin(), expected.end(), std::uint8_t{8}, std::uint8_t{0});
    const std::vector<std::uint8_t> ours = unpacked_codes(q_, true);
    expected = merged(expected, ours);
    const std::vector<float> scales = decoded_scales(q_);
    for (std::size_t i = 0; i < ours.size() && i < expected.size(); ++i) {
      if (golden_.format == "nvfp4" && scales[group_of(i)] == 0) expected[i] = ours[i];
    }
    expect_same_bytes(ours, expected, golden_.label + " codes");
  }

 private:
  [[nodiscard]] std::size_t group_of(std::size_t value) const {
    return value / q_.cols * q_.groups + value % q_.cols / q_.group;
  }
  /// `expected` with the excluded groups of `ours`; one entry a value or one a group.
  template <class T>
  std::vector<T> merged(std::vector<T> expected, const std::vector<T>& ours) const {
    const bool per_value = ours.size() == q_.rows * q_.cols;
    if (expected.size() != ours.size()) return expected;  // reported as a difference
    for (std::size_t i = 0; i < ours.size(); ++i) {
      if (excluded_[per_value ? group_of(i) : i]) expected[i] = ours[i];
    }
    return expected;
  }

  const GoldenCase& golden_;
  const QuantizedMatrix& q_;
  std::vector<bool> excluded_;
};

/// One side's scale bytes of a sign-split matrix with one-byte scales.
std::vector<std::uint8_t> side_bytes(const QuantizedMatrix& q, std::size_t side) {
  std::vector<std::uint8_t> out;
  for (std::size_t i = side; i < q.scales.size(); i += 2) out.push_back(q.scales[i]);
  return out;
}

class GoldenFp4 : public testing::TestWithParam<Match> {};

TEST_P(GoldenFp4, IsReproducedBitForBit) {
  const Match& match = GetParam();
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  const AnyFormat format = parse_format(match.spec);
  QuantizeOptions options;
  options.propagate_nonfinite = true;
  SerialExecutor executor;
  std::size_t cases = 0;
  std::size_t groups = 0;
  std::size_t excluded_groups = 0;
  for (const GoldenCase& golden : golden_cases(root, match.format)) {
    if (golden.variant != match.variant || excluded_case(golden) != nullptr) continue;
    const QuantizedMatrix q = quantize_rtn(golden.view(), format, executor, options);
    const Comparison compare(golden, q);
    compare.values("dq", dequantized(q));
    compare.codes();
    compare.bytes("scale_e8m0", q.scales);
    compare.bytes("scale_e4m3", q.scales);
    if (golden.format == "mxfp4_compressed_tensors") compare.bytes("weight_scale", q.scales);
    compare.bytes("scale_pos_e5m2", side_bytes(q, 0));
    compare.bytes("scale_neg_e5m2", side_bytes(q, 1));
    compare.scales("scale_pos", false);
    compare.scales("scale_neg", true);
    compare.values("tensor_scale", {q.tensor.scale});
    ++cases;
    groups += q.rows * q.groups;
    excluded_groups += compare.excluded_groups();
  }
  EXPECT_GE(cases, match.least_cases);
  // Two thirds of the one case "tiny" at most.
  EXPECT_LE(excluded_groups * 13 * 3, groups * 2) << excluded_groups << " of " << groups;
}

INSTANTIATE_TEST_SUITE_P(All, GoldenFp4, testing::ValuesIn(kMatches), [](const auto& match) {
  return fmt::format("{}_{}", match.param.format, match.param.variant);
});

TEST(GoldenCoverage, EveryVariantIsComparedOrNamedHere) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  std::set<std::string> folders;
  for (const Match& match : kMatches) folders.insert(match.format);
  for (const std::string& folder : folders) {
    for (const GoldenCase& golden : golden_cases(root, folder)) {
      const bool compared = std::any_of(
          std::begin(kMatches), std::end(kMatches),
          [&](const Match& m) { return golden.format == m.format && golden.variant == m.variant; });
      const bool named = std::any_of(std::begin(kOthers), std::end(kOthers), [&](const Other& o) {
        return golden.format == o.format && golden.variant.starts_with(o.variant);
      });
      EXPECT_TRUE(compared || named) << golden.label;
    }
  }
}

}  // namespace
}  // namespace nybble::test
