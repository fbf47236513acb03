// Weights of formats that are only imported (GGUF's Q4_1, Q4_K, IQ4_XS) through the layers.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "nybble/attention/kv_cache.h"
#include "nybble/format/registry.h"
#include "nybble/format/scale.h"
#include "nybble/kernels.h"
#include "nybble/linear/grouped_linear.h"
#include "nybble/linear/linear.h"
#include "nybble/numeric/float16.h"
#include "nybble/quantize/clip_search.h"
#include "nybble/quantize/method.h"
#include "nybble/quantize/rtn.h"
#include "nybble/tensor/packed_matrix.h"
#include "tests/format/golden.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

const std::vector<std::string> kSpecs = {"q4_1", "q4_k", "iq4_xs"};

/// A matrix whose every part is without a pattern.
QuantizedMatrix random_matrix(const std::string& spec, std::size_t rows, std::size_t cols) {
  QuantizedMatrix q(parse_format(spec), rows, cols);
  const std::vector<float> noise = normal_values(q.codes.size() + 4 * rows * q.groups, 11);
  std::size_t next = 0;
  const auto byte = [&](int most) {
    return static_cast<std::uint8_t>(static_cast<int>(std::fabs(noise[next++]) * 4096) %
                                     (most + 1));
  };
  for (std::uint8_t& code : q.codes) code = byte(255);
  const FormatInfo& info = q.format.info();
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t g = 0; g < q.groups && info.super_block == 0; ++g) {
      const float scale = round_scale(ScaleType::f16, std::fabs(noise[next++]));
      const float offset = Float16::from_float(-8 * noise[next++]).to_float();
      q.set_scale(r, g, {scale, scale, 0, offset});
    }
  }
  if (info.super_block != 0) {
    for (std::uint8_t& scale : q.scales) {
      scale = static_cast<std::uint8_t>(byte(63) - (info.offsets ? 0 : 32));
    }
    for (std::uint8_t& offset : q.offsets) offset = byte(63);
    for (float& scale : q.nested_scales) scale = noise[next++] / 16;
    for (float& offset : q.nested_offsets) offset = noise[next++] / 2;
  }
  return q;
}

/// What a path may be off by for one output: its roundings of weights and activations, and f32.
double tolerance(Path path, double weight_bits, double row_max, double products, double terms) {
  const double accumulated = (products + terms) * 1e-5;
  switch (path) {
    case Path::a8:
      // Half a step of the largest int8 scale a row may have.
      return weight_bits * row_max / 127 * 0.51 + accumulated;
    case Path::a16:
      return products * 0x1p-7 + accumulated;
    default:
      return accumulated;
  }
}

TEST(Offsets, AllPathsAreTheProductWithTheDecodedWeights) {
  ThreadExecutor executor(2);
  Workspace workspace;
  std::size_t products = 0;
  for (const std::string& spec : kSpecs) {
    for (const auto& [n, k] : std::vector<std::pair<std::size_t, std::size_t>>{
             {1, 1}, {5, 31}, {16, 32}, {33, 100}, {40, 256}, {17, 600}}) {
      const QuantizedMatrix q = random_matrix(spec, n, k);
      for (const std::size_t m : {1U, 3U, 9U}) {
        std::vector<float> x = normal_values(m * k, m);
        for (float& value : x) value += 0.5F;  // sums of groups that matter
        for (const TargetInfo& target : list_targets()) {
          if (!target.supported) continue;
          for (const Path path : {Path::a8, Path::a16, Path::a32}) {
            const QuantizedLinear layer(q, {.path = path, .target = target.name}, executor);
            std::vector<float> y(m * n);
            layer.run({x.data(), m, k}, {y.data(), m, n}, workspace, executor);
            for (std::size_t row = 0; row < m; ++row) {
              double largest = 0;
              for (std::size_t i = 0; i < k; ++i) {
                largest = std::max(largest, std::fabs(double{x[row * k + i]}));
              }
              for (std::size_t col = 0; col < n; ++col) {
                double expected = 0;
                double weights = 0;
                double magnitudes = 0;
                double terms = 0;
                for (std::size_t i = 0; i < k; ++i) {
                  const double at = x[row * k + i];
                  expected += q.value(col, i) * at;
                  const GroupScale scale = q.scale(col, i / q.group);
                  const FormatInfo& info = q.format.info();
                  const double level = info.levels[q.code(col, i)] - (info.offsets ? 8 : 0);
                  weights += std::fabs(level * scale.positive);
                  magnitudes += std::fabs(level * scale.positive * at);
                  terms +=
                      std::fabs((std::fabs(scale.offset) + 8 * std::fabs(scale.positive)) * at);
                }
                EXPECT_NEAR(y[row * n + col], expected,
                            tolerance(path, weights, largest, magnitudes, terms))
                    << spec << " " << n << " x " << k << " m " << m << " " << path_name(path) << " "
                    << target.name;
                ++products;
              }
            }
          }
        }
      }
    }
  }
  EXPECT_GT(products, 10000U);
}

TEST(Offsets, DoNotDependOnThreadsOrTarget) {
  const QuantizedMatrix q = random_matrix("q4_k", 50, 512);
  const std::vector<float> x = normal_values(7 * 512, 1);
  std::vector<std::vector<float>> results;
  for (const TargetInfo& target : list_targets()) {
    if (!target.supported) continue;
    for (const std::size_t threads : {1U, 3U}) {
      ThreadExecutor executor(threads);
      Workspace workspace;
      const QuantizedLinear layer(q, {.path = Path::a8, .target = target.name}, executor);
      results.emplace_back(7 * 50);
      layer.run({x.data(), 7, 512}, {results.back().data(), 7, 50}, workspace, executor);
    }
  }
  for (const std::vector<float>& result : results) EXPECT_EQ(result, results.front());
}

// The offsets belong to the weight and see what it sees; the side branches see x itself.
TEST(Offsets, SeeTransformedInputs) {
  SerialExecutor executor;
  Workspace workspace;
  const std::size_t k = 64;
  const QuantizedMatrix q = random_matrix("q4_1", 20, k);
  const std::vector<float> x = normal_values(2 * k, 1);
  Transforms transforms;
  for (std::size_t i = 0; i < k; ++i) {
    transforms.channel_scale.scale.push_back(1 + 0.1F * static_cast<float>(i));
    transforms.permutation.source.push_back(static_cast<std::uint32_t>((i * 5) % k));
  }
  transforms.bias.assign(20, 3);
  std::vector<float> moved(2 * k);
  for (std::size_t i = 0; i < 2 * k; ++i) {
    const std::size_t from = i % k * 5 % k;
    moved[i] = x[i / k * k + from] * transforms.channel_scale.scale[from];
  }
  std::vector<float> y(40);
  std::vector<float> plain(40);
  QuantizedLinear(q, {.path = Path::a32}, executor, transforms)
      .run({x.data(), 2, k}, {y.data(), 2, 20}, workspace, executor);
  QuantizedLinear(q, {.path = Path::a32}, executor)
      .run({moved.data(), 2, k}, {plain.data(), 2, 20}, workspace, executor);
  for (std::size_t i = 0; i < 40; ++i) EXPECT_FLOAT_EQ(y[i], plain[i] + 3);
}

TEST(Offsets, PackingGivesTheMatrixBack) {
  SerialExecutor executor;
  for (const std::string& spec : kSpecs) {
    for (const std::size_t k : {31U, 256U, 600U}) {
      const QuantizedMatrix q = random_matrix(spec, 19, k);
      const QuantizedMatrix again = PackedMatrix(q, executor).unpack(executor);
      again.check();
      EXPECT_EQ(again.codes, q.codes) << spec;
      EXPECT_EQ(again.scales, q.scales) << spec;
      EXPECT_EQ(again.offsets, q.offsets) << spec;
      EXPECT_EQ(again.nested_scales, q.nested_scales) << spec;
      EXPECT_EQ(again.nested_offsets, q.nested_offsets) << spec;
      const std::vector<float> values = dequantized(q);
      for (std::size_t i = 0; i < values.size(); ++i) {
        EXPECT_TRUE(same_value(values[i], q.value(i / k, i % k))) << spec;
      }
    }
  }
}

TEST(Offsets, MatricesKnowTheirSizes) {
  const QuantizedMatrix q4_1(parse_format("q4_1"), 3, 65);
  EXPECT_EQ(q4_1.scales.size(), 18U);
  EXPECT_EQ(q4_1.offsets.size(), 18U);
  EXPECT_TRUE(q4_1.nested_scales.empty());
  QuantizedMatrix q4_k(parse_format("q4_k"), 3, 257);
  EXPECT_EQ(q4_k.scales.size(), 27U);
  EXPECT_EQ(q4_k.offsets.size(), 27U);
  EXPECT_EQ(q4_k.nested_scales.size(), 6U);
  EXPECT_EQ(q4_k.nested_offsets.size(), 6U);
  const QuantizedMatrix iq4_xs(parse_format("iq4_xs"), 3, 256);
  EXPECT_TRUE(iq4_xs.offsets.empty());
  EXPECT_EQ(iq4_xs.nested_scales.size(), 3U);
  EXPECT_TRUE(iq4_xs.nested_offsets.empty());
  const auto bits = [](const char* spec) {
    return QuantizedMatrix(parse_format(spec), 2, 512).bits_per_element();
  };
  EXPECT_EQ(bits("q4_1"), 5);
  EXPECT_EQ(bits("q4_k"), 4.5);
  EXPECT_EQ(bits("iq4_xs"), 4.25);
  q4_k.offsets.pop_back();
  expect_error(ErrorCode::bad_shape, {"offsets is 26, expected 27"}, [&] { q4_k.check(); });
  q4_k.offsets.push_back(0);
  q4_k.nested_offsets.clear();
  expect_error(ErrorCode::bad_shape, {"nested_offsets is 0, expected 6"}, [&] { q4_k.check(); });
  expect_error(ErrorCode::unsupported, {"all at once"}, [&] { q4_k.set_scale(0, 0, {1, 1, 0}); });
}

TEST(ImportedFormats, AreNamesButNoFamilies) {
  for (const std::string& spec : kSpecs) {
    const FormatInfo info = parse_format(spec).info();
    EXPECT_EQ(info.spec, spec);
    EXPECT_TRUE(info.imported);
    EXPECT_EQ(info.offsets, spec != "iq4_xs");
    for (const FormatFamily& family : format_families()) EXPECT_NE(family.name, spec);
    expect_error(ErrorCode::bad_option, {spec, "registered already"}, [&] {
      register_format({spec, "", "", [](SpecOptions&) { return parse_format("int4"); }});
    });
  }
  expect_error(ErrorCode::bad_option, {"q4_k"}, [] { parse_format("q5_k"); });
}

TEST(ImportedFormats, AreRefusedByEverythingThatQuantizes) {
  SerialExecutor executor;
  ThreadExecutor threads(2);
  std::vector<float> x = normal_values(4 * 64, 1);
  const MatrixView view(x.data(), 4, 64);
  for (const std::string& spec : kSpecs) {
    const AnyFormat format = parse_format(spec);
    const std::vector<std::string> parts = {"'" + spec + "'", "imported", "quantized to"};
    const auto refuse = [&](const auto& action) {
      expect_error(ErrorCode::unsupported, parts, action);
    };
    refuse([&] { quantize_rtn(view, format, executor); });
    refuse([&] { quantize_rtn(view, format, threads); });
    refuse([&] { quantize_clip_search(view, format, executor); });
    refuse([&] { fake_quantize_rows({x.data(), 4, 64}, format, executor); });
    Calibration calibration(64);
    calibration.add(view, executor);
    for (const char* method : {"rtn", "clip", "gptq", "awq+rtn", "omniquant"}) {
      SCOPED_TRACE(method);
      refuse([&] { quantize_layer(view, format, Method(method), &calibration, executor); });
    }
    refuse([&] {
      KvCache(1, 64, 8, {format, parse_format("int4"), ValueGroups::tokens, Path::a8, {}});
    });

    const QuantizedMatrix own = random_matrix(spec, 4, 64);
    const QuantizedMatrix int4 = quantize_rtn(view, parse_format("int4"), executor);
    const auto refuse_a4 = [&](const QuantizedMatrix& weight, const AnyFormat& activations) {
      expect_error(ErrorCode::unsupported, {"a4", "'" + spec + "'", "expected a8"}, [&] {
        QuantizedLinear(weight, {.path = Path::a4, .activations = activations}, executor);
      });
    };
    refuse_a4(int4, format);
    refuse_a4(own, format);
    if (!format.info().offsets) continue;
    refuse_a4(own, parse_format("int4"));
    expect_error(ErrorCode::unsupported, {"'" + spec + "'", "offsets"},
                 [&] { GroupedLinear(std::span(&own, 1), {}, executor); });
  }
}

}  // namespace
}  // namespace nybble::test
