// Powers of two as scales where group maxima are near the end of f32, against the definitions
// written down again in doubles, which hold every f32 and every product of one exactly.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "nybble/quantize/rtn.h"
#include "tests/format/golden.h"
#include "tests/support/environment.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

constexpr int kNanByte = 255;

/// The scale's byte for a group whose largest magnitude is a normal f32.
int scale_byte(const std::string& rule, float largest) {
  int exponent = 0;  // largest = mantissa * 2^exponent, the mantissa in [1, 2)
  const double mantissa = 2 * std::frexp(static_cast<double>(largest), &exponent);
  --exponent;
  int scale = exponent - 2;  // 4 = 2^2 is the largest power of two of E2M1
  if (rule == "even" && mantissa >= 1.75) {
    if (exponent == 127) return kNanByte;  // 2^128 is no f32
    ++scale;
  }
  if (rule == "ceil" && mantissa > 1) ++scale;
  if (rule == "rceil") {
    // The product of two f32, rounded to one: by what power of two is it not exceeded?
    const auto ratio =
        static_cast<float>(static_cast<double>(largest) * static_cast<double>(1.0F / 6.0F));
    scale = -149;
    while (std::ldexp(1.0, scale) < static_cast<double>(ratio)) ++scale;
  }
  return std::clamp(scale, -127, 127) + 127;
}

/// E2M1's magnitude nearest to z >= 0, the smaller of equally near ones first in the list of two.
double e2m1_magnitude(double z, const std::string& ties) {
  constexpr double kLevels[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  std::size_t best = 0;
  for (std::size_t i = 1; i < 8; ++i) {
    const double nearer = std::fabs(z - kLevels[best]) - std::fabs(z - kLevels[i]);
    const bool tie_up = ties == "away" || (ties == "even" && i % 2 == 0);
    if (nearer > 0 || (nearer == 0 && tie_up)) best = i;
  }
  return kLevels[best];
}

/// What x becomes under a scale; as f32, so possibly Inf.
float rounded(float x, int byte, const std::string& ties) {
  if (byte == kNanByte) return std::numeric_limits<float>::quiet_NaN();
  const double scale = std::ldexp(1.0, byte - 127);
  const double magnitude = e2m1_magnitude(std::fabs(static_cast<double>(x)) / scale, ties) * scale;
  return static_cast<float>(x < 0 ? -magnitude : magnitude);
}

constexpr std::size_t kCols = 2 * 32 + 13;  // with a tail

/// Groups of 32 whose largest positive and largest negative elements are in each other's way: of
/// every exponent from 2^120 on and on both sides of every threshold of a rule.
std::vector<float> huge_groups() {
  const double ulp = 0x1p-23;
  const double mantissas[] = {1,          1 + ulp, 1.25,       1.5 - ulp, 1.5,    1.5 + ulp,
                              1.75 - ulp, 1.75,    1.75 + ulp, 1.9,       2 - ulp};
  std::vector<float> peaks = {1.0F, 0.0F};
  for (int exponent = 120; exponent <= 127; ++exponent) {
    for (const double mantissa : mantissas) {
      peaks.push_back(static_cast<float>(std::ldexp(mantissa, exponent)));
    }
  }
  Random random(4);
  std::vector<float> out;
  for (const float positive : peaks) {
    for (int repeat = 0; repeat < 4; ++repeat) {
      for (std::size_t begin = 0; begin < kCols; begin += 32) {
        const float negative = repeat == 0 ? positive : peaks[random.index(peaks.size())];
        const std::size_t count = std::min<std::size_t>(32, kCols - begin);
        for (std::size_t i = 0; i < count; ++i) {
          const float peak = i % 2 == 0 ? positive : -negative;
          // The peaks, zeros, exact midpoints of levels, and whatever.
          const float part = i < 2    ? 1.0F
                             : i < 5  ? 0.0F
                             : i < 12 ? static_cast<float>(random.index(32)) / 32
                                      : static_cast<float>(random.uniform());
          out.push_back(peak * part);
        }
      }
    }
  }
  return out;
}

/// What the definitions say of every element, and the bytes of the scales in their order.
struct Expected {
  std::vector<float> values;
  std::vector<std::uint8_t> scales;
};

Expected define(const std::vector<float>& x, const std::string& rule, const std::string& ties,
                bool sign_split) {
  Expected out;
  for (std::size_t begin = 0; begin < x.size();) {
    const std::size_t end = begin + std::min<std::size_t>(32, kCols - begin % kCols);
    float positive = 0;
    float negative = 0;
    for (std::size_t i = begin; i < end; ++i) {
      positive = std::max(positive, x[i]);
      negative = std::max(negative, -x[i]);
    }
    const auto byte_of = [&](float largest) { return largest > 0 ? scale_byte(rule, largest) : 0; };
    const float largest = std::max(positive, negative);
    const int of_positive = byte_of(sign_split ? positive : largest);
    const int of_negative = byte_of(sign_split ? negative : largest);
    for (std::size_t i = begin; i < end; ++i) {
      out.values.push_back(rounded(x[i], x[i] > 0 ? of_positive : of_negative, ties));
    }
    out.scales.push_back(static_cast<std::uint8_t>(of_positive));
    if (sign_split) out.scales.push_back(static_cast<std::uint8_t>(of_negative));
    begin = end;
  }
  return out;
}

TEST(ExponentRule, MaximaNearTheEndOfF32AreAsDefinedOnEveryTarget) {
  const std::vector<float> x = huge_groups();
  const MatrixView view(x.data(), x.size() / kCols, kCols);
  SerialExecutor executor;
  std::size_t nan_groups = 0;
  for (const std::string rule : {"floor", "even", "ceil", "rceil"}) {
    for (const std::string format : {"mxfp4", "amxfp4"}) {
      for (const std::string ties : {"even", "away", "zero"}) {
        const bool sign_split = format == "amxfp4";
        if (sign_split && ties != "away") continue;
        const std::string spec =
            fmt::format("{}:{}rule={}{}", format, sign_split ? "scale=e8m0," : "", rule,
                        sign_split ? "" : ",ties=" + ties);
        const Expected expected = define(x, rule, ties, sign_split);
        nan_groups += static_cast<std::size_t>(
            std::count(expected.scales.begin(), expected.scales.end(), std::uint8_t{kNanByte}));
        for (const TargetInfo& target : list_targets()) {
          if (!target.supported) continue;
          const ForcedTarget forced(target.name);
          const QuantizedMatrix q = quantize_rtn(view, parse_format(spec), executor);
          expect_same_values(dequantized(q), expected.values, spec + " " + target.name);
          expect_same_bytes(q.scales, expected.scales, spec + " scales " + target.name);
        }
      }
    }
  }
  EXPECT_GT(nan_groups, 0U);
}

}  // namespace
}  // namespace nybble::test
