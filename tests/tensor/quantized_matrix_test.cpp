#include "nybble/tensor/quantized_matrix.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/quantize/rtn.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/all_specs.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

TEST(QuantizedMatrix, BitsPerElement) {
  const auto bits = [](const char* spec, std::size_t cols = 1024) {
    return QuantizedMatrix(parse_format(spec), 2, cols).bits_per_element();
  };
  EXPECT_EQ(bits("int4"), 4.5);
  EXPECT_EQ(bits("int4:scale=f32"), 5.0);
  EXPECT_EQ(bits("int4:group=128"), 4.125);
  EXPECT_EQ(bits("int4:zero_point=true"), 4.625);
  EXPECT_EQ(bits("int4:group=row"), 4 + 16.0 / 1024);
  EXPECT_EQ(bits("fp4"), 4.5);
  EXPECT_EQ(bits("mxfp4"), 4.25);
  EXPECT_EQ(bits("nvfp4"), 4.5);
  EXPECT_EQ(bits("amxfp4"), 4.5);
  EXPECT_EQ(bits("amxfp4:scale=f16"), 5.0);
  EXPECT_EQ(bits("nf4"), 4.5);
  EXPECT_NEAR(bits("nf4:double=true"), 4.127, 0.0005);
}

TEST(QuantizedMatrix, Sizes) {
  const QuantizedMatrix split(parse_format("amxfp4"), 3, 33);
  EXPECT_EQ(split.group, 32U);
  EXPECT_EQ(split.groups, 2U);
  EXPECT_EQ(split.padded_cols, 64U);
  EXPECT_EQ(split.codes.size(), 96U);
  EXPECT_EQ(split.scales.size(), 12U);
  const QuantizedMatrix row(parse_format("int4:group=row,zero_point=true"), 3, 33);
  EXPECT_EQ(row.group, 34U);  // a whole number of bytes
  EXPECT_EQ(row.groups, 1U);
  EXPECT_EQ(row.scales.size(), 6U);
  EXPECT_EQ(row.zero_points.size(), 3U);
  const QuantizedMatrix nested(parse_format("nf4:double=true"), 10, 64 * 27);
  EXPECT_EQ(nested.scales.size(), 270U);
  EXPECT_EQ(nested.nested_scales.size(), 2U);
  expect_error(ErrorCode::bad_shape, {"0 x 4"},
               [] { QuantizedMatrix(parse_format("int4"), 0, 4); });
  expect_error(ErrorCode::bad_shape, {"4 x 0"},
               [] { QuantizedMatrix(parse_format("int4"), 4, 0); });
}

TEST(QuantizedMatrix, StoresEveryScaleOfEveryType) {
  struct Type {
    ScaleType type;
    std::size_t bytes;
    std::uint32_t codes;  ///< positive ones, from 0
  };
  const Type types[] = {{ScaleType::e8m0, 1, 256},     {ScaleType::e4m3, 1, 128},
                        {ScaleType::e4m3x480, 1, 128}, {ScaleType::e5m2, 1, 124},
                        {ScaleType::f16, 2, 0x7C00},   {ScaleType::bf16, 2, 0x7F80}};
  for (const Type& t : types) {
    EXPECT_EQ(scale_bytes(t.type), t.bytes);
    for (std::uint32_t code = 0; code < t.codes; ++code) {
      const std::uint8_t stored[2] = {static_cast<std::uint8_t>(code),
                                      static_cast<std::uint8_t>(code >> 8)};
      std::uint8_t again[2] = {0, 0};
      store_scale(t.type, load_scale(t.type, stored), again);
      EXPECT_EQ(again[0] | again[1] << 8, static_cast<int>(code)) << scale_type_name(t.type);
    }
  }
  for (const float value : normal_values(100, 1)) {
    std::uint8_t bytes[4];
    store_scale(ScaleType::f32, value, bytes);
    EXPECT_EQ(load_scale(ScaleType::f32, bytes), value);
  }
  for (const ScaleType type : {ScaleType::f32, ScaleType::f16, ScaleType::bf16, ScaleType::e8m0,
                               ScaleType::e4m3, ScaleType::e5m2}) {
    std::uint8_t bytes[4];
    store_scale(type, std::numeric_limits<float>::quiet_NaN(), bytes);
    EXPECT_TRUE(std::isnan(load_scale(type, bytes))) << scale_type_name(type);
  }
}

TEST(QuantizedMatrix, SetAndGetScaleOfEveryGroup) {
  for (const std::string& spec : few_specs()) {
    QuantizedMatrix q(parse_format(spec), 3, 170);
    const FormatInfo& info = q.format.info();
    if (info.double_quantized) {
      expect_error(ErrorCode::unsupported, {"all at once"}, [&] { q.set_scale(0, 0, {1, 1, 0}); });
      continue;
    }
    // Powers of two, which every type holds, another one for every group and side.
    const auto scale = [&](std::size_t row, std::size_t g) {
      const int exponent = static_cast<int>((row * q.groups + g) % 13) - 6;
      const float positive = std::ldexp(1.0F, exponent);
      const bool split = info.layout == ScaleLayout::sign_split;
      return GroupScale{positive, split ? positive * 4 : positive,
                        info.layout == ScaleLayout::zero_point
                            ? static_cast<float>((row * q.groups + g) % 16)
                            : 0.0F};
    };
    for (std::size_t r = 0; r < q.rows; ++r) {
      for (std::size_t g = 0; g < q.groups; ++g) q.set_scale(r, g, scale(r, g));
    }
    for (std::size_t r = 0; r < q.rows; ++r) {
      for (std::size_t g = 0; g < q.groups; ++g) {
        const GroupScale got = q.scale(r, g);
        EXPECT_EQ(got.positive, scale(r, g).positive) << spec;
        EXPECT_EQ(got.negative, scale(r, g).negative) << spec;
        EXPECT_EQ(got.zero, scale(r, g).zero) << spec;
      }
    }
  }
}

TEST(QuantizedMatrix, ValueIsLevelTimesScale) {
  QuantizedMatrix split(parse_format("amxfp4"), 1, 4);
  split.set_scale(0, 0, {2, 0.5F, 0});
  split.codes[0] = 0xF7;  // +6, -6
  split.codes[1] = 0x80;  // +0, -0
  EXPECT_EQ(split.value(0, 0), 12);
  EXPECT_EQ(split.value(0, 1), -3);
  EXPECT_EQ(split.value(0, 2), 0);
  EXPECT_EQ(split.value(0, 3), 0);
  QuantizedMatrix zero(parse_format("int4:zero_point=true"), 1, 2);
  zero.set_scale(0, 0, {0.25F, 0.25F, 3});
  zero.codes[0] = 0xF1;
  EXPECT_EQ(zero.value(0, 0), -0.5F);
  EXPECT_EQ(zero.value(0, 1), 3);
  QuantizedMatrix two_level(parse_format("nvfp4"), 1, 2);
  two_level.set_scale(0, 0, {448, 448, 0});
  two_level.tensor = {0.5F, 0};
  two_level.codes[0] = 0x94;  // +2, -0.5
  EXPECT_EQ(two_level.value(0, 0), 448);
  EXPECT_EQ(two_level.value(0, 1), -112);
}

TEST(Dequantize, IsValueOfEveryElement) {
  const std::size_t rows = 7;
  const std::size_t cols = 101;
  for (const ValueGenerator& generator : value_generators()) {
    const std::vector<float> x = generator.make(rows * cols, 9);
    for (const std::string& spec : few_specs()) {
      SerialExecutor serial;
      const QuantizedMatrix q = quantize_rtn({x.data(), rows, cols}, parse_format(spec), serial);
      for (const std::size_t tasks : {1U, 3U}) {
        ThreadExecutor executor(tasks);
        // A stride of its own: nothing between the rows may be written.
        std::vector<float> out(rows * (cols + 2), 123.0F);
        dequantize(q, {out.data(), rows, cols, cols + 2}, executor);
        bool same = true;
        for (std::size_t r = 0; r < rows; ++r) {
          const float* row = &out[r * (cols + 2)];
          for (std::size_t c = 0; c < cols; ++c) same = same && same_bits(row[c], q.value(r, c));
          same = same && row[cols] == 123.0F && row[cols + 1] == 123.0F;
        }
        EXPECT_TRUE(same) << spec << " " << generator.name << " on " << tasks;
      }
    }
  }
}

TEST(Dequantize, BadShapes) {
  SerialExecutor executor;
  const QuantizedMatrix q(parse_format("int4"), 2, 8);
  std::vector<float> out(32);
  expect_error(ErrorCode::bad_shape, {"2 x 9", "expected 2 x 8"}, [&] {
    dequantize(q, {out.data(), 2, 9}, executor);
  });
  expect_error(ErrorCode::bad_shape, {"null"}, [&] { dequantize(q, {nullptr, 2, 8}, executor); });
  expect_error(ErrorCode::bad_shape, {"stride 7"}, [&] {
    dequantize(q, {out.data(), 2, 8, 7}, executor);
  });
}

TEST(QuantizedMatrix, SelectedRowsAreTheRowsSelected) {
  for (const char* spec : {"int4:group=16,zero_point=true", "amxfp4", "nvfp4", "q4_1", "q4_k"}) {
    SCOPED_TRACE(spec);
    QuantizedMatrix matrix(parse_format(spec), 5, 256);
    std::uint8_t next = 3;
    for (auto* bytes : {&matrix.codes, &matrix.scales, &matrix.zero_points, &matrix.offsets}) {
      for (std::uint8_t& byte : *bytes) {
        byte = (next = static_cast<std::uint8_t>(next * 5 + 1)) & 15;
      }
    }
    for (float& value : matrix.nested_scales) value = static_cast<float>(++next);
    for (float& value : matrix.nested_offsets) value = static_cast<float>(++next);
    matrix.tensor.scale = 0.5F;
    const std::vector<std::uint32_t> order = {4, 0, 0, 3};
    const QuantizedMatrix selected = select_rows(matrix, order);
    ASSERT_EQ(selected.rows, order.size());
    for (std::size_t row = 0; row < order.size(); ++row) {
      for (std::size_t col = 0; col < 256; ++col) {
        ASSERT_EQ(selected.value(row, col), matrix.value(order[row], col)) << row << " " << col;
      }
    }
    EXPECT_THROW(select_rows(matrix, std::vector<std::uint32_t>{5}), Error);
  }
  const QuantizedMatrix nested(parse_format("nf4:double=true"), 4, 64);
  EXPECT_THROW(select_rows(nested, std::vector<std::uint32_t>{0}), Error);
}

}  // namespace
}  // namespace nybble::test
