#include "nybble/quantize/rtn.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/registry.h"
#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "tests/io/temporary_folder.h"
#include "tests/quantize/naive_quantize.h"
#include "tests/support/all_specs.h"
#include "tests/support/environment.h"
#include "tests/support/kernel_reach.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<std::uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> out;
  for (const float value : values) out.push_back(std::bit_cast<std::uint32_t>(value));
  return out;
}

void expect_same(const QuantizedMatrix& got, const QuantizedMatrix& expected,
                 const std::string& label) {
  EXPECT_EQ(got.rows, expected.rows) << label;
  EXPECT_EQ(got.cols, expected.cols) << label;
  EXPECT_EQ(got.tensor.scale, expected.tensor.scale) << label;
  EXPECT_EQ(got.tensor.amax, expected.tensor.amax) << label;
  EXPECT_TRUE(got.scales == expected.scales) << label << ": scales differ";
  EXPECT_TRUE(got.zero_points == expected.zero_points) << label << ": zero points differ";
  EXPECT_TRUE(got.codes == expected.codes) << label << ": codes differ";
  EXPECT_EQ(bits_of(got.nested_scales), bits_of(expected.nested_scales)) << label;
  EXPECT_EQ(got.nested_offset, expected.nested_offset) << label;
}

/// 3 x 172: full groups, a short tail of 12 at group 32, and none that is a multiple of 64.
constexpr std::size_t kRows = 3;
constexpr std::size_t kCols = 172;

TEST(QuantizeRtn, EqualsTheScalarDefinitionOnEveryTarget) {
  const std::vector<std::string> specs = all_specs();
  std::vector<std::string> targets;
  for (const TargetInfo& target : list_targets()) {
    if (target.supported) targets.push_back(target.name);
  }
  for (std::size_t kind = 0; kind < value_generators().size(); ++kind) {
    const ValueGenerator& generator = value_generators()[kind];
    const std::vector<float> x = generator.make(kRows * kCols, 11 + kind);
    const MatrixView view(x.data(), kRows, kCols);
    for (const std::string& spec : specs) {
      const AnyFormat format = parse_format(spec);
      const QuantizedMatrix expected = naive_quantize(view, format);
      for (const std::string& target : targets) {
        const ForcedTarget forced(target);
        SerialExecutor executor;
        expect_same(quantize_rtn(view, format, executor), expected,
                    fmt::format("{} {} {}", spec, generator.name, target));
      }
    }
  }
  for (const std::string& target : targets) {
    using kernels::Slot;
    for (const Slot slot : {Slot::group_ranges, Slot::encode, Slot::group_errors}) {
      const kernels::TargetId provider = kernels::provider(kernels::select(target).id, slot);
      mark_reached(fmt::format("{}_{}", kernels::slot_name(slot), kernels::target_name(provider)));
    }
  }
}

TEST(QuantizeRtn, EveryLengthHasItsTail) {
  for (const std::string& spec : few_specs()) {
    const AnyFormat format = parse_format(spec);
    for (const std::size_t cols : {1U, 2U, 15U, 16U, 17U, 31U, 32U, 33U, 63U, 65U}) {
      const std::vector<float> x = heavy_tailed_values(2 * cols, cols);
      const MatrixView view(x.data(), 2, cols);
      for (const TargetInfo& target : list_targets()) {
        if (!target.supported) continue;
        const ForcedTarget forced(target.name);
        SerialExecutor executor;
        expect_same(quantize_rtn(view, format, executor), naive_quantize(view, format),
                    fmt::format("{} 2x{} {}", spec, cols, target.name));
      }
    }
  }
}

TEST(QuantizeRtn, BlocksTooSmallForKernelsAreEncodedAsDefined) {
  for (const std::string name : {"nf4", "fp4_bnb"}) {
    for (const std::string block : {"2", "4", "8"}) {
      for (const std::string nested : {"false", "true"}) {
        const std::string spec = name + ":block=" + block + ",double=" + nested;
        const std::vector<float> x = heavy_tailed_values(kRows * kCols, 5);
        const MatrixView view(x.data(), kRows, kCols);
        for (const TargetInfo& target : list_targets()) {
          if (!target.supported) continue;
          const ForcedTarget forced(target.name);
          SerialExecutor executor;
          const AnyFormat format = parse_format(spec);
          expect_same(quantize_rtn(view, format, executor), naive_quantize(view, format),
                      spec + " " + target.name);
        }
      }
    }
  }
}

TEST(QuantizeRtn, ExtremeGroups) {
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  constexpr float kHuge = std::numeric_limits<float>::max();
  const std::vector<std::pair<const char*, std::vector<float>>> groups = {
      {"zeros", std::vector<float>(32, 0.0F)},
      {"minus zeros", std::vector<float>(32, -0.0F)},
      {"zeros of both signs", {0.0F, -0.0F, -0.0F, 0.0F}},
      {"one denormal", {0.0F, kTiny, -0.0F, 0.0F}},
      {"denormals", {kTiny, -kTiny, 1e-40F, -2e-39F, 0.0F}},
      {"positive only", {1.0F, 2.0F, 3.0F, 0.1F}},
      {"negative only", {-1.0F, -2.0F, -3.0F, -0.1F}},
      {"positive and zero", {0.0F, 2.0F, -0.0F}},
      {"large", {1e35F, -1e35F, 1.0F, 0.0F}},
      {"huge", {kHuge, -kHuge, 1.0F, 0.0F}},
      {"huge and tiny", {kHuge, kTiny, -kTiny}},
      {"one value", {0.7F}},
  };
  SerialExecutor executor;
  for (const std::string& spec : all_specs()) {
    const AnyFormat format = parse_format(spec);
    const std::array<float, 16>& levels = format.info().levels;
    const bool has_zero = std::find(levels.begin(), levels.end(), 0.0F) != levels.end();
    for (const auto& [name, x] : groups) {
      const std::string label = spec + " " + name;
      const MatrixView view(x.data(), 1, x.size());
      const QuantizedMatrix q = quantize_rtn(view, format, executor);
      expect_same(q, naive_quantize(view, format), label);
      for (const float scale : {q.scale(0, 0).positive, q.scale(0, 0).negative}) {
        EXPECT_FALSE(scale == 0 && std::signbit(scale)) << label << ": a scale of -0";
      }
      // At the end of f32 the rounding of a scale can carry a decoded value past it.
      if (x[0] == kHuge) continue;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const float value = q.value(0, i);
        EXPECT_TRUE(std::isfinite(value)) << label << " " << x[i] << " -> " << value;
        if (x[i] == 0 && has_zero) {
          EXPECT_EQ(value, 0) << label;
        }
      }
    }
  }
}

TEST(QuantizeRtn, SignSplitStoresScalesOfSignsThatDoNotOccur) {
  SerialExecutor executor;
  const auto stored = [&](std::vector<float> x) {
    const MatrixView view(x.data(), 1, x.size());
    return quantize_rtn(view, parse_format("amxfp4"), executor).scale(0, 0);
  };
  const GroupScale positive = stored({6.0F, 3.0F});
  EXPECT_EQ(positive.positive, 1.0F);
  EXPECT_EQ(positive.negative, 0.0F);
  const GroupScale negative = stored({-6.0F, -3.0F});
  EXPECT_EQ(negative.positive, 0.0F);
  EXPECT_EQ(negative.negative, 1.0F);
  const GroupScale zeros = stored({0.0F, -0.0F});
  EXPECT_EQ(zeros.positive, 0.0F);
  EXPECT_EQ(zeros.negative, 1.0F);
}

TEST(QuantizeRtn, SameBytesForAnyNumberOfTasks) {
  const std::vector<float> x = outlier_values(13 * 300, 3);
  const MatrixView view(x.data(), 13, 300);
  SerialExecutor serial;
  for (const std::string& spec : few_specs()) {
    const AnyFormat format = parse_format(spec);
    const QuantizedMatrix expected = quantize_rtn(view, format, serial);
    for (const std::size_t tasks : {2U, 5U}) {
      ThreadExecutor executor(tasks);
      expect_same(quantize_rtn(view, format, executor), expected,
                  fmt::format("{} on {} threads", spec, tasks));
    }
  }
}

TEST(QuantizeRtn, ReadsStridedViews) {
  const std::vector<float> x = normal_values(5 * 100, 4);
  std::vector<float> dense;
  for (std::size_t r = 0; r < 5; ++r) {
    for (std::size_t c = 0; c < 70; ++c) dense.push_back(x[r * 100 + 7 + c]);
  }
  SerialExecutor executor;
  const AnyFormat format = parse_format("amxfp4");
  expect_same(quantize_rtn({x.data() + 7, 5, 70, 100}, format, executor),
              quantize_rtn({dense.data(), 5, 70}, format, executor), "strided");
}

TEST(QuantizeRtn, NonfiniteValuesAreRefusedWithTheirPlace) {
  SerialExecutor serial;
  ThreadExecutor threads(3);
  for (const std::string& spec : few_specs()) {
    const AnyFormat format = parse_format(spec);
    if (format.info().propagates_nonfinite) continue;
    for (const float bad : {kInfinity, -kInfinity, kNan}) {
      std::vector<float> x = normal_values(4 * 50, 6);
      x[2 * 50 + 37] = bad;
      for (Executor* executor :
           {static_cast<Executor*>(&serial), static_cast<Executor*>(&threads)}) {
        expect_error(ErrorCode::bad_value, {"layer.3", "[2, 37]", fmt::format("{}", bad)}, [&] {
          quantize_rtn({x.data(), 4, 50}, format, *executor, {.tensor_name = "layer.3"});
        });
      }
    }
  }
}

TEST(QuantizeRtn, NonfiniteGroupsBecomeNanWherePropagated) {
  SerialExecutor executor;
  for (const std::string& spec : all_specs()) {
    const AnyFormat format = parse_format(spec);
    if (format.info().double_quantized) continue;  // its offset is a mean: one NaN spreads to all
    // f16 saturates, E4M3 and E5M2 have a NaN; MX-QLLM's E4M3 has none to store.
    if (format.info().scale_type == ScaleType::e4m3x480) continue;
    for (const float bad : {kInfinity, -kInfinity, kNan}) {
      std::vector<float> x = normal_values(2 * 172, 7);
      x[172 + 133] = bad;
      const MatrixView view(x.data(), 2, 172);
      QuantizeOptions options;
      options.propagate_nonfinite = true;
      const QuantizedMatrix q = quantize_rtn(view, format, executor, options);
      for (std::size_t r = 0; r < 2; ++r) {
        for (std::size_t c = 0; c < 172; ++c) {
          const bool hit = r == 1 && c / q.group == 133 / q.group;
          EXPECT_EQ(std::isnan(q.value(r, c)), hit)
              << spec << " " << bad << " at " << r << " " << c;
        }
      }
    }
  }
}

TEST(QuantizeRtn, BadViews) {
  SerialExecutor executor;
  const AnyFormat format = parse_format("int4");
  const float x[4] = {1, 2, 3, 4};
  expect_error(ErrorCode::bad_shape, {"matrix", "0 x 4"}, [&] {
    quantize_rtn({x, 0, 4}, format, executor);
  });
  expect_error(ErrorCode::bad_shape, {"w", "4 x 0"}, [&] {
    quantize_rtn({x, 4, 0}, format, executor, {.tensor_name = "w"});
  });
  expect_error(ErrorCode::bad_shape, {"null"}, [&] {
    quantize_rtn({nullptr, 1, 4}, format, executor);
  });
  expect_error(ErrorCode::bad_shape, {"stride 2"}, [&] {
    quantize_rtn({x, 1, 4, 2}, format, executor);
  });
}

}  // namespace
}  // namespace nybble::test
