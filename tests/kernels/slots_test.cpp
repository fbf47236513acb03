// The kernels that are not GEMMs, each on every target this CPU runs, against plain loops.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kernels/registry.h"
#include "nybble/format/element.h"
#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "nybble/numeric/bfloat16.h"
#include "tests/support/kernel_reach.h"
#include "tests/support/random.h"

namespace nybble::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

/// Calls check(table) for every supported target that has its own kernel in this slot.
template <class Check>
void on_every_target(const std::string& slot, Check check) {
  for (const KernelInfo& kernel : list_kernels()) {
    if (kernel.slot != slot || !kernel.supported) continue;
    SCOPED_TRACE(kernel.name);
    check(*kernels::select(kernel.target).table);
    mark_reached(kernel.name);
  }
}

struct Case {
  std::string name;
  std::vector<float> values;
  std::size_t group;
};

/// Odd lengths and groups over every kind of data, and Inf and NaN in the middle and in a tail.
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const auto& generator : value_generators()) {
    for (const std::size_t count : {1U, 7U, 15U, 16U, 17U, 31U, 33U, 64U, 100U, 257U}) {
      for (const std::size_t group : {16U, 32U, 48U, 300U}) {
        out.push_back({std::string(generator.name) + " " + std::to_string(count) + "/" +
                           std::to_string(group),
                       generator.make(count, count * 7 + group), group});
      }
    }
  }
  for (const float bad : {kNan, kInf, -kInf}) {
    for (const std::size_t at : {0U, 40U, 99U}) {
      out.push_back({"nonfinite", normal_values(100, at), 32});
      out.back().values[at] = bad;
    }
  }
  return out;
}

std::size_t group_count(const Case& c) { return (c.values.size() + c.group - 1) / c.group; }

std::vector<ScaleChoice> choices_of(const AnyFormat& format, const Case& c, TensorScale tensor) {
  std::vector<ScaleChoice> out;
  for (std::size_t begin = 0; begin < c.values.size(); begin += c.group) {
    const std::size_t end = std::min(c.values.size(), begin + c.group);
    GroupRange range{c.values[begin], c.values[begin]};
    for (std::size_t i = begin; i < end; ++i) {
      range.max = std::max(range.max, c.values[i]);
      range.min = std::min(range.min, c.values[i]);
      if (!std::isfinite(c.values[i])) {
        range.max = kNan;
        break;
      }
    }
    out.push_back(format.choose(range, tensor, 1));
  }
  return out;
}

const std::vector<std::string>& specs() {
  static const std::vector<std::string> all = {
      "int4",  "int4:zero_point=true", "fp4",   "nf4", "fp4_bnb", "mxfp4",
      "nvfp4", "nvfp4:search=4over6",  "amxfp4"};
  return all;
}

TEST(Slots, GroupRanges) {
  on_every_target("group_ranges", [](const kernels::KernelTable& table) {
    for (const Case& c : cases()) {
      SCOPED_TRACE(c.name);
      std::vector<GroupRange> ranges(group_count(c));
      table.group_ranges({c.values.data(), c.values.size(), c.group, ranges.data()});
      for (std::size_t g = 0; g < ranges.size(); ++g) {
        const auto begin = c.values.begin() + static_cast<std::ptrdiff_t>(g * c.group);
        const auto end = c.values.begin() +
                         static_cast<std::ptrdiff_t>(std::min(c.values.size(), (g + 1) * c.group));
        if (!std::all_of(begin, end, [](float x) { return std::isfinite(x); })) {
          EXPECT_TRUE(std::isnan(ranges[g].max));
          continue;
        }
        EXPECT_EQ(ranges[g].max, *std::max_element(begin, end));
        EXPECT_EQ(ranges[g].min, *std::min_element(begin, end));
      }
    }
  });
}

TEST(Slots, Encode) {
  on_every_target("encode", [](const kernels::KernelTable& table) {
    for (const std::string& spec : specs()) {
      const AnyFormat format = parse_format(spec);
      for (const Case& c : cases()) {
        SCOPED_TRACE(spec + " " + c.name);
        const auto choices = choices_of(format, c, format.tensor_scale(3));
        std::vector<std::uint8_t> codes(c.values.size() + 1, 0xEE);
        table.encode({&format.encode_table(), c.values.data(), c.values.size(), c.group,
                      choices.data(), codes.data()});
        EXPECT_EQ(codes.back(), 0xEE) << "wrote past the end";
        for (std::size_t i = 0; i < c.values.size(); ++i) {
          if (std::isnan(choices[i / c.group].scale.positive)) {
            ASSERT_LT(codes[i], 16);  // the scale says NaN; any code will do
            continue;
          }
          ASSERT_EQ(codes[i],
                    encode_value(format.encode_table(), choices[i / c.group], c.values[i]))
              << "x = " << c.values[i];
        }
      }
    }
  });
}

/// The defined order of additions: 16 partial sums, then i with i + 8, + 4, + 2, + 1.
float tree_sum(const std::vector<float>& values) {
  float sums[16] = {};
  for (std::size_t i = 0; i < values.size(); ++i) sums[i % 16] += values[i];
  for (std::size_t half = 8; half != 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

TEST(Slots, GroupErrors) {
  on_every_target("group_errors", [](const kernels::KernelTable& table) {
    for (const std::string& spec : specs()) {
      const AnyFormat format = parse_format(spec);
      for (const std::size_t count : {1U, 15U, 16U, 17U, 32U, 64U, 100U}) {
        for (const bool weighted : {false, true}) {
          SCOPED_TRACE(spec + " " + std::to_string(count));
          const std::vector<float> x = outlier_values(count, count);
          std::vector<float> importance(count);
          for (std::size_t i = 0; i < count; ++i) importance[i] = static_cast<float>(i % 5);
          const TensorScale tensor = format.tensor_scale(60);
          const GroupRange range{*std::max_element(x.begin(), x.end()),
                                 *std::min_element(x.begin(), x.end())};
          const std::vector<ScaleChoice> choices = {format.choose(range, tensor, 1),
                                                    format.choose(range, tensor, 0.7F)};
          float positive[2];
          float negative[2];
          table.group_errors({&format.encode_table(), x.data(),
                              weighted ? importance.data() : nullptr, count, choices.data(), 2,
                              tensor.scale, positive, negative});
          for (std::size_t c = 0; c < 2; ++c) {
            std::vector<float> above(count);
            std::vector<float> below(count);
            for (std::size_t i = 0; i < count; ++i) {
              const std::uint8_t code = encode_value(format.encode_table(), choices[c], x[i]);
              const float level = format.info().levels[code];
              const GroupScale& scale = choices[c].scale;
              const float value = (level - scale.zero) *
                                  ((level < 0 ? scale.negative : scale.positive) * tensor.scale);
              float square = (value - x[i]) * (value - x[i]);
              if (weighted) square *= importance[i];
              (x[i] > 0 ? above : below)[i] = square;
            }
            EXPECT_EQ(positive[c], tree_sum(above));
            EXPECT_EQ(negative[c], tree_sum(below));
          }
        }
      }
    }
  });
}

TEST(Slots, QuantizeInt8) {
  on_every_target("quantize_int8", [](const kernels::KernelTable& table) {
    for (const Case& c : cases()) {
      for (const std::size_t sum_group : {c.group, std::size_t{16}}) {
        if (c.group % sum_group != 0) continue;
        SCOPED_TRACE(c.name + " sums of " + std::to_string(sum_group));
        const std::size_t count = c.values.size();
        std::vector<std::int8_t> q(count + 1, 99);
        std::vector<float> shifts(group_count(c));
        float row_scale = -1;
        std::vector<std::int32_t> sums((count + sum_group - 1) / sum_group, -1);
        table.quantize_int8({c.values.data(), count, c.group, sum_group, q.data(), &row_scale,
                             shifts.data(), sums.data()});
        EXPECT_EQ(q.back(), 99) << "wrote past the end";
        std::vector<std::int32_t> expected_sums(sums.size());
        const bool finite =
            std::all_of(c.values.begin(), c.values.end(), [](float x) { return std::isfinite(x); });
        const auto peak = [&](std::size_t begin, std::size_t end) {
          float largest = 0;
          for (std::size_t i = begin; i < end; ++i) {
            largest = std::max(largest, std::fabs(c.values[i]));
          }
          return largest / 127.0F;
        };
        if (finite) {
          EXPECT_EQ(row_scale, std::max(peak(0, count), 0x1p-80F));
        } else {
          EXPECT_TRUE(std::isnan(row_scale));
        }
        for (std::size_t g = 0; g < shifts.size(); ++g) {
          const std::size_t end = std::min(count, (g + 1) * c.group);
          if (finite) {
            float expected = 0x1p-40F;
            while (expected < peak(g * c.group, end) / row_scale) expected *= 2;
            EXPECT_EQ(shifts[g], expected);
          }
          const float inverse = 1.0F / row_scale * (1.0F / shifts[g]);
          for (std::size_t i = g * c.group; i < end; ++i) {
            const int expected =
                finite ? static_cast<int>(std::nearbyint(c.values[i] * inverse)) : 0;
            ASSERT_EQ(q[i], expected) << "x = " << c.values[i];
            ASSERT_LE(std::abs(expected), 127);
            expected_sums[i / sum_group] += expected;
          }
        }
        EXPECT_EQ(sums, expected_sums);
      }
    }
  });
}

std::vector<std::uint8_t> random_codes(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::uint8_t> out(count);
  for (std::uint8_t& code : out) code = static_cast<std::uint8_t>(random.index(16));
  return out;
}

TEST(Slots, CodesToInt8) {
  on_every_target("codes_to_int8", [](const kernels::KernelTable& table) {
    std::int8_t levels[16];
    for (int i = 0; i < 16; ++i) levels[i] = static_cast<std::int8_t>(i % 2 == 0 ? i * 8 : -i * 7);
    for (const std::size_t count : {1U, 15U, 16U, 33U, 64U, 100U, 333U}) {
      for (const std::size_t sum_group : {16U, 32U}) {
        const auto codes = random_codes(count, count);
        std::vector<ScaleChoice> choices((count + 31) / 32);
        // Runs of groups with the same zero, and groups with one of their own.
        for (std::size_t g = 0; g < choices.size(); ++g) {
          choices[g].scale.zero = static_cast<float>(g < 5 ? 0 : g);
        }
        std::vector<std::int8_t> q(count + 1, 99);
        std::vector<std::int32_t> sums((count + sum_group - 1) / sum_group);
        table.codes_to_int8(
            {codes.data(), count, 32, sum_group, levels, choices.data(), q.data(), sums.data()});
        EXPECT_EQ(q.back(), 99);
        std::vector<std::int32_t> expected(sums.size());
        for (std::size_t i = 0; i < count; ++i) {
          const int value = levels[codes[i]] - static_cast<int>(choices[i / 32].scale.zero);
          ASSERT_EQ(q[i], value);
          expected[i / sum_group] += value;
        }
        EXPECT_EQ(sums, expected);
      }
    }
  });
}

TEST(Slots, CodesToFloat) {
  on_every_target("codes_to_float", [](const kernels::KernelTable& table) {
    for (const std::string& spec : specs()) {
      const FormatInfo info = parse_format(spec).info();
      for (const std::size_t count : {1U, 15U, 16U, 33U, 100U}) {
        const auto codes = random_codes(count, count + 1);
        std::vector<ScaleChoice> choices((count + 31) / 32);
        for (std::size_t g = 0; g < choices.size(); ++g) {
          const auto scale = static_cast<float>(g + 1);
          choices[g].scale = {0.3F * scale, 0.7F * scale, g % 2 == 0 ? 0.0F : 5.0F};
        }
        std::vector<float> values(count + 1, 99);
        table.codes_to_float(
            {codes.data(), count, 32, info.levels.data(), choices.data(), 1.7F, values.data()});
        EXPECT_EQ(values.back(), 99);
        for (std::size_t i = 0; i < count; ++i) {
          const GroupScale& scale = choices[i / 32].scale;
          const float level = info.levels[codes[i]];
          const float by = (level < 0 ? scale.negative : scale.positive) * 1.7F;
          ASSERT_EQ(values[i], (level - scale.zero) * by);
        }
      }
    }
  });
}

TEST(Slots, SquaredError) {
  on_every_target("squared_error", [](const kernels::KernelTable& table) {
    for (const std::size_t count : {1U, 7U, 16U, 23U, 33U, 512U}) {
      const auto x = test::normal_values(count, count);
      const auto y = test::normal_values(count, count + 1);
      // 16 interleaved sums, then i with i + 8, + 4, + 2, + 1.
      float signal[16] = {};
      float noise[16] = {};
      for (std::size_t i = 0; i < count; ++i) {
        signal[i % 16] += x[i] * x[i];
        noise[i % 16] += (x[i] - y[i]) * (x[i] - y[i]);
      }
      for (std::size_t half = 8; half > 0; half /= 2) {
        for (std::size_t i = 0; i < half; ++i) {
          signal[i] += signal[i + half];
          noise[i] += noise[i + half];
        }
      }
      float got_signal = -1;
      float got_noise = -1;
      table.squared_error({x.data(), y.data(), count, &got_signal, &got_noise});
      ASSERT_EQ(got_signal, signal[0]) << count;
      ASSERT_EQ(got_noise, noise[0]) << count;
    }
  });
}

TEST(Slots, CodesToBf16) {
  on_every_target("codes_to_bf16", [](const kernels::KernelTable& table) {
    for (const std::string& spec : specs()) {
      const FormatInfo info = parse_format(spec).info();
      for (const std::size_t count : {1U, 15U, 16U, 33U, 100U}) {
        const auto codes = random_codes(count, count + 1);
        std::vector<ScaleChoice> choices((count + 31) / 32);
        for (std::size_t g = 0; g < choices.size(); ++g) {
          const auto scale = static_cast<float>(g + 1);
          choices[g].scale = {0.3F * scale, 0.7F * scale, g % 2 == 0 ? 0.0F : 5.0F};
        }
        choices.back().scale.negative = kNan;
        std::vector<std::uint16_t> bits(count + 1, 0xEEEE);
        table.codes_to_bf16(
            {codes.data(), count, 32, info.levels.data(), choices.data(), 1.7F, bits.data()});
        EXPECT_EQ(bits.back(), 0xEEEE) << "wrote past the end";
        for (std::size_t i = 0; i < count; ++i) {
          const GroupScale& scale = choices[i / 32].scale;
          const float level = info.levels[codes[i]];
          const float value =
              (level - scale.zero) * ((level < 0 ? scale.negative : scale.positive) * 1.7F);
          const BFloat16 actual{bits[i]};
          if (std::isnan(value)) {
            EXPECT_TRUE(std::isnan(actual.to_float()));
          } else {
            ASSERT_EQ(actual.bits, BFloat16::from_float(value).bits);
          }
        }
      }
    }
  });
}

TEST(Slots, RoundBf16) {
  on_every_target("round_bf16", [](const kernels::KernelTable& table) {
    for (const Case& c : cases()) {
      std::vector<std::uint16_t> bits(c.values.size() + 1, 0xEEEE);
      table.round_bf16({c.values.data(), c.values.size(), bits.data()});
      EXPECT_EQ(bits.back(), 0xEEEE);
      for (std::size_t i = 0; i < c.values.size(); ++i) {
        if (std::isnan(c.values[i])) {
          EXPECT_TRUE(std::isnan(BFloat16{bits[i]}.to_float()));
        } else {
          ASSERT_EQ(bits[i], BFloat16::from_float(c.values[i]).bits) << c.values[i];
        }
      }
    }
    // All 65 536 values and the midpoints above them, with their neighbours.
    std::vector<float> x;
    for (std::uint32_t high = 0; high < 0x10000; ++high) {
      for (const std::uint32_t low : {0U, 0x7FFFU, 0x8000U, 0x8001U}) {
        x.push_back(std::bit_cast<float>(high << 16 | low));
      }
    }
    std::vector<std::uint16_t> bits(x.size());
    table.round_bf16({x.data(), x.size(), bits.data()});
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float expected = BFloat16::from_float(x[i]).to_float();
      const float actual = BFloat16{bits[i]}.to_float();
      ASSERT_TRUE(expected == actual || (std::isnan(expected) && std::isnan(actual))) << x[i];
    }
  });
}

/// Every element the same bits on every target: a chain of FMAs from 0, then one addition.
TEST(Slots, DenseUpdate) {
  on_every_target("dense_update", [](const kernels::KernelTable& table) {
    for (const std::size_t rows : {1U, 5U, 6U, 7U, 13U}) {
      for (const std::size_t depth : {1U, 31U, 300U}) {
        for (const std::size_t cols : {1U, 15U, 16U, 33U, 64U}) {
          SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(depth) + " x " +
                       std::to_string(cols));
          const std::size_t a_stride = depth + 3;
          const std::size_t c_stride = cols + 5;
          std::vector<float> a = normal_values(rows * a_stride, rows + depth);
          const std::vector<float> b = normal_values(depth * kernels::kDenseCols, cols + depth);
          if (depth > 20) a[20] = kInf;  // stays in its row
          for (const bool subtract : {false, true}) {
            const std::vector<float> before = normal_values(rows * c_stride, 7);
            std::vector<float> c = before;
            table.dense_update(
                {a.data(), a_stride, b.data(), c.data(), c_stride, rows, depth, cols, subtract});
            for (std::size_t i = 0; i < rows; ++i) {
              for (std::size_t j = 0; j < c_stride; ++j) {
                float sum = 0;
                for (std::size_t k = 0; k < depth && j < cols; ++k) {
                  sum = std::fma(a[i * a_stride + k], b[k * kernels::kDenseCols + j], sum);
                }
                const std::size_t at = i * c_stride + j;
                const float expected = j >= cols  ? before[at]
                                       : subtract ? before[at] - sum
                                                  : before[at] + sum;
                const bool same = std::isnan(expected) ? std::isnan(c[at]) : c[at] == expected;
                ASSERT_TRUE(same) << i << " " << j << ": " << c[at] << ", expected " << expected;
              }
            }
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace nybble::test
