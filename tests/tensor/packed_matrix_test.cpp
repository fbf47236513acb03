#include "nybble/tensor/packed_matrix.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kernels/kernels.h"
#include "nybble/format/block_format.h"
#include "nybble/format/registry.h"
#include "nybble/quantize/rtn.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/all_specs.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

void expect_same(const QuantizedMatrix& got, const QuantizedMatrix& expected,
                 const std::string& label) {
  EXPECT_EQ(got.format.info().spec, expected.format.info().spec) << label;
  EXPECT_EQ(got.rows, expected.rows) << label;
  EXPECT_EQ(got.cols, expected.cols) << label;
  EXPECT_EQ(got.group, expected.group) << label;
  EXPECT_EQ(got.groups, expected.groups) << label;
  EXPECT_EQ(got.padded_cols, expected.padded_cols) << label;
  EXPECT_TRUE(got.codes == expected.codes) << label << ": codes differ";
  EXPECT_TRUE(got.scales == expected.scales) << label << ": scales differ";
  EXPECT_TRUE(got.zero_points == expected.zero_points) << label << ": zero points differ";
  EXPECT_EQ(got.tensor.scale, expected.tensor.scale) << label;
  EXPECT_EQ(got.tensor.amax, expected.tensor.amax) << label;
  EXPECT_EQ(got.nested_scales, expected.nested_scales) << label;
  EXPECT_EQ(got.nested_offset, expected.nested_offset) << label;
}

struct Shape {
  std::size_t rows, cols;
};
constexpr Shape kShapes[] = {{1, 1}, {1, 31}, {15, 32}, {16, 64}, {33, 65}, {17, 172}, {2, 1030}};

TEST(PackedMatrix, UnpackIsTheInverseOfPacking) {
  for (const std::string& spec : all_specs()) {
    const AnyFormat format = parse_format(spec);
    for (const Shape& shape : kShapes) {
      const std::vector<float> x = nasty_values(shape.rows * shape.cols, 31 + shape.cols);
      SerialExecutor serial;
      const QuantizedMatrix q = quantize_rtn({x.data(), shape.rows, shape.cols}, format, serial);
      const PackedMatrix packed(q, serial);
      EXPECT_EQ(packed.rows(), shape.rows);
      EXPECT_EQ(packed.cols(), shape.cols);
      EXPECT_GE(packed.padded_cols(), q.padded_cols);
      EXPECT_EQ(packed.padded_cols() % 32, 0U);
      expect_same(packed.unpack(serial), q, fmt::format("{} {}x{}", spec, shape.rows, shape.cols));
    }
  }
}

std::size_t canonical_bytes(const QuantizedMatrix& q) {
  return q.codes.size() + q.scales.size() + q.zero_points.size();
}

TEST(PackedMatrix, PackingAddsHardlyAnything) {
  SerialExecutor serial;
  for (const std::string& spec : few_specs()) {
    const QuantizedMatrix q(parse_format(spec), 4096, 4096);
    // Kernels read nested scales as the f32 they stand for.
    const std::size_t nested = q.format.info().double_quantized ? 3 * q.scales.size() : 0;
    const double most = 1.02 * static_cast<double>(canonical_bytes(q) + nested);
    EXPECT_LE(static_cast<double>(PackedMatrix(q, serial).bytes()), most) << spec;
  }
}

TEST(PackedMatrix, OddShapesArePaddedToWholePanelsAndGroups) {
  SerialExecutor serial;
  for (const char* spec : {"int4", "int4:zero_point=true", "mxfp4", "nvfp4", "amxfp4"}) {
    for (const Shape& shape : kShapes) {
      const AnyFormat format = parse_format(spec);
      const PackedMatrix packed(QuantizedMatrix(format, shape.rows, shape.cols), serial);
      const QuantizedMatrix whole(format, (shape.rows + 15) / 16 * 16, packed.padded_cols());
      EXPECT_LT(packed.padded_cols() - shape.cols, std::max<std::size_t>(32, whole.group)) << spec;
      // At most three cache lines a panel beside what is stored: the last unit's head is a whole
      // one.
      EXPECT_LE(packed.bytes(), canonical_bytes(whole) + whole.rows / 16 * 192)
          << spec << ' ' << shape.rows << " x " << shape.cols;
    }
  }
}

TEST(PackedMatrix, AnyCodesAndScalesSurvive) {
  // Random bytes: patterns no quantizer writes, NaN scales and -0 codes included.
  for (const std::string& spec : few_specs()) {
    for (const std::size_t limit : {16U, 32U, 128U}) {
      QuantizedMatrix q(parse_format(spec), 19, 200);
      Random random(limit);
      for (std::uint8_t& byte : q.codes) byte = static_cast<std::uint8_t>(random.bits());
      for (std::uint8_t& byte : q.scales) byte = static_cast<std::uint8_t>(random.bits());
      for (std::uint8_t& byte : q.zero_points) byte = static_cast<std::uint8_t>(random.index(16));
      q.tensor = {0.125F, 3.0F};
      q.nested_scales.assign(q.nested_scales.size(), 0.75F);
      q.nested_offset = 2.5F;
      ThreadExecutor executor(3);
      PackedMatrix packed(q, executor, limit);
      expect_same(packed.unpack(executor), q, fmt::format("{} limit {}", spec, limit));
      kernels::KernelTable target;
      target.dot_limit = 127;
      EXPECT_EQ(packed.panels_for(target).codes, packed.panels().codes);
      PackedMatrix moved = std::move(packed);
      expect_same(moved.unpack(executor), q, spec + " moved");
    }
  }
}

struct Plain {
  static constexpr const char* kName = "plain";
  static constexpr std::array<float, 16> kLevels = {-8, -7, -6, -5, -4, -3, -2, -1,
                                                    0,  1,  2,  3,  4,  5,  6,  7};
};

TEST(PackedMatrix, GroupsThatAreNoMultipleOf16AreRefused) {
  const AnyFormat format =
      BlockFormat<Plain, AbsmaxScale>("plain", 24, LevelTies::even, AbsmaxScale(ScaleType::f16));
  SerialExecutor executor;
  expect_error(ErrorCode::unsupported, {"plain", "groups of 24", "multiples of 16"},
               [&] { PackedMatrix(QuantizedMatrix(format, 2, 48), executor); });
  for (const char* spec : {"nf4:block=8", "fp4_bnb:block=2"}) {  // of files, not in all_specs()
    expect_error(ErrorCode::unsupported, {spec, "multiples of 16"},
                 [&] { PackedMatrix(QuantizedMatrix(parse_format(spec), 2, 48), executor); });
  }
  expect_error(ErrorCode::unsupported, {"activations: 8"},
               [&] { PackedMatrix(QuantizedMatrix(parse_format("int4"), 2, 48), executor, 8); });
}

}  // namespace
}  // namespace nybble::test
