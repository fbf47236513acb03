// Four Over Six against its authors' code (mit-han-lab/fouroversix), rule mse.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "nybble/format/element.h"
#include "nybble/format/registry.h"
#include "nybble/quantize/rtn.h"
#include "tests/format/golden.h"
#include "tests/support/shared.h"

namespace nybble::test {
namespace {

constexpr std::size_t kBlock = 16;

/// One block of 16 under each of the two candidate scales.
struct Block {
  std::span<const float> x;
  ScaleChoice choice[2];
  TensorScale tensor;

  Block(const AnyFormat& format, std::span<const float> values, TensorScale tensor_scale)
      : x(values), tensor(tensor_scale) {
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    for (int i = 0; i < 2; ++i) choice[i] = format.candidate({*high, *low}, tensor, i);
  }

  /// The reference does not clamp: from 7 on a value rounds to 8, whose code is that of -0.
  [[nodiscard]] bool overflows_in_reference() const {
    return std::any_of(x.begin(), x.end(), [&](float v) {
      return std::fabs(v) * choice[0].encode_positive >= 7 ||
             std::fabs(v) * choice[1].encode_positive >= 7;
    });
  }

  /// Exact squared error of a candidate, and how far an f32 evaluation of it may be off: some 4
  /// roundings in each decoded value, and 16 in the sum.
  struct Error {
    double value = 0;
    double uncertainty = 0;
  };
  [[nodiscard]] Error error(const AnyFormat& format, int candidate) const {
    constexpr double kUnit = 0x1p-24;
    Error out;
    for (const float v : x) {
      const std::uint8_t code = encode_value(format.encode_table(), choice[candidate], v);
      const double decoded = format.decode(code, choice[candidate].scale, tensor);
      const double difference = decoded - static_cast<double>(v);
      out.value += difference * difference;
      out.uncertainty += 2 * std::fabs(difference) * 4 * kUnit * std::fabs(decoded) +
                         16 * kUnit * difference * difference;
    }
    return out;
  }
  [[nodiscard]] bool is_tie(const AnyFormat& format) const {
    const Error six = error(format, 0);
    const Error four = error(format, 1);
    return std::fabs(six.value - four.value) <= six.uncertainty + four.uncertainty;
  }
};

TEST(GoldenFourOverSix, IsReproducedExceptForItsOverflow) {
  NYBBLE_GOLDEN_OR_SKIP(root, "formats");
  const AnyFormat format = parse_format("nvfp4:search=4over6");
  SerialExecutor executor;
  std::size_t cases = 0;
  std::size_t blocks = 0;
  std::size_t overflows = 0;
  std::size_t ties = 0;
  for (const GoldenCase& golden : golden_cases(root, "nvfp4")) {
    if (golden.variant != "fouroversix_nvfp4_mse") continue;
    ++cases;
    const QuantizedMatrix q = quantize_rtn(golden.view(), format, executor);
    EXPECT_EQ(q.tensor.amax, golden.floats("amax").at(0)) << golden.label;
    const std::vector<float> values = dequantized(q);
    const std::vector<std::uint8_t> codes = unpacked_codes(q, true);
    const std::vector<float> expected_values = golden.floats("dq");
    const std::vector<std::uint8_t> expected_scales = golden.bytes("scale_e4m3");
    std::vector<std::uint8_t> expected_codes = golden.bytes("codes");
    std::replace(expected_codes.begin(), expected_codes.end(), std::uint8_t{8}, std::uint8_t{0});
    ASSERT_EQ(expected_values.size(), values.size()) << golden.label;
    ASSERT_EQ(expected_scales.size(), q.scales.size()) << golden.label;
    for (std::size_t b = 0; b < q.scales.size(); ++b) {
      ++blocks;
      const std::size_t begin = b * kBlock;
      const Block block(format, std::span(golden.input).subspan(begin, kBlock), q.tensor);
      if (block.overflows_in_reference()) {
        ++overflows;
        continue;
      }
      if (q.scales[b] != expected_scales[b] && block.is_tie(format)) {
        ++ties;
        continue;
      }
      const std::string label = fmt::format("{} block {}", golden.label, b);
      EXPECT_EQ(q.scales[b], expected_scales[b]) << label;
      expect_same_values(std::span(values).subspan(begin, kBlock),
                         std::span(expected_values).subspan(begin, kBlock), label + " dq");
      expect_same_bytes(std::span(codes).subspan(begin, kBlock),
                        std::span(expected_codes).subspan(begin, kBlock), label + " codes");
    }
  }
  EXPECT_GE(cases, 13U);
  RecordProperty("blocks", std::to_string(blocks));
  RecordProperty("overflows", std::to_string(overflows));
  RecordProperty("ties", std::to_string(ties));
  EXPECT_LE(overflows * 20, blocks) << "more than one block in 20 was not compared";
  EXPECT_LE(ties * 200, blocks) << "more than one block in 200 was called a tie";
}

}  // namespace
}  // namespace nybble::test
