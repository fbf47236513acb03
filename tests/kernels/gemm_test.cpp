// Every GEMM kernel on every target this CPU runs, through QuantizedLinear, against products in
// f64.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "nybble/linear/linear.h"
#include "nybble/numeric/bfloat16.h"
#include "nybble/quantize/rtn.h"
#include "src/tensor/integer_levels.h"
#include "tests/support/kernel_reach.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

struct Shape {
  std::size_t n, k, m;
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{1, 1, 1},     {17, 31, 2},   {33, 33, 3},
                                         {16, 64, 1},   {31, 172, 5},  {48, 256, 13},
                                         {20, 1056, 7}, {35, 300, 27}, {16, 96, 205}};
  return all;
}

struct Problem {
  std::vector<float> weight;  ///< n x k
  std::vector<float> x;       ///< m x k
};

/// Data with zeros of both signs, denormals and outliers, but products that f32 can hold.
std::vector<float> bounded_nasty(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> out(count);
  std::size_t mode = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 40 == 0) mode = random.index(6);
    switch (mode) {
      case 0:
        out[i] = random.index(2) == 0 ? 0.0F : -0.0F;
        break;
      case 1:
        out[i] = random.normal() * 1e-40F;
        break;
      case 2:
        out[i] = std::fabs(random.normal());
        break;
      case 3:
        out[i] = -std::fabs(random.normal()) * 1e5F;
        break;
      default:
        out[i] = random.normal() * (random.index(50) == 0 ? 100.0F : 1.0F);
        break;
    }
  }
  return out;
}

Problem make_problem(const Shape& s, bool nasty) {
  const auto make = nasty ? bounded_nasty : normal_values;
  return {make(s.n * s.k, s.n + s.k), make(s.m * s.k, s.m + 3 * s.k)};
}

/// What each path computes with, in f64, independent of the kernels' order.
struct Reference {
  std::vector<double> y;      ///< m x n
  std::vector<double> bound;  ///< sum of |terms|, for tolerances
};

Reference product(const std::vector<double>& weight, const std::vector<double>& x, const Shape& s) {
  Reference out{std::vector<double>(s.m * s.n), std::vector<double>(s.m * s.n)};
  for (std::size_t m = 0; m < s.m; ++m) {
    for (std::size_t n = 0; n < s.n; ++n) {
      for (std::size_t k = 0; k < s.k; ++k) {
        const double term = weight[n * s.k + k] * x[m * s.k + k];
        out.y[m * s.n + n] += term;
        out.bound[m * s.n + n] += std::fabs(term);
      }
    }
  }
  return out;
}

std::vector<double> widened(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

/// The values a matrix stands for. With `integers`, levels as the integer dot sees them.
std::vector<double> weight_values(const QuantizedMatrix& q, bool integers) {
  const IntegerLevels levels = integer_levels(q.format.info().levels);
  std::vector<double> out(q.rows * q.cols);
  for (std::size_t r = 0; r < q.rows; ++r) {
    for (std::size_t c = 0; c < q.cols; ++c) {
      const std::uint8_t code = q.code(r, c);
      const GroupScale scale = q.scale(r, c / q.group);
      double level = static_cast<double>(q.format.info().levels[code]);
      if (integers) {
        level = static_cast<double>(levels.integer[code]) * static_cast<double>(levels.step);
      }
      const double by = static_cast<double>(level < 0 ? scale.negative : scale.positive);
      out[r * q.cols + c] =
          (level - static_cast<double>(scale.zero)) * (by * static_cast<double>(q.tensor.scale));
    }
  }
  return out;
}

/// int8 activations as the a8 path defines them: a scale a row, a power of two per `group` values.
std::vector<double> int8_values(const std::vector<float>& x, std::size_t k, std::size_t group) {
  std::vector<double> out(x.size());
  const auto peak = [&](std::size_t begin, std::size_t end) {
    float largest = 0;
    for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(x[i]));
    return largest / 127.0F;
  };
  for (std::size_t begin = 0; begin < x.size(); begin += k) {
    const float scale = std::max(peak(begin, begin + k), 0x1p-80F);
    for (std::size_t g = 0; g < k; g += group) {
      const std::size_t end = std::min(k, g + group);
      float shift = 0x1p-40F;
      while (shift < peak(begin + g, begin + end) / scale) shift *= 2;
      for (std::size_t i = g; i < end; ++i) {
        const float q = std::nearbyint(x[begin + i] * (1.0F / scale * (1.0F / shift)));
        out[begin + i] = static_cast<double>(q) * static_cast<double>(scale * shift);
      }
    }
  }
  return out;
}

std::vector<double> bf16_values(const std::vector<double>& values) {
  std::vector<double> out;
  for (const double v : values) {
    out.push_back(static_cast<double>(BFloat16::from_float(static_cast<float>(v)).to_float()));
  }
  return out;
}

/// Each row of x through a format, on its own.
std::vector<double> format_values(const std::vector<float>& x, const Shape& s,
                                  const AnyFormat& format) {
  SerialExecutor executor;
  std::vector<float> out(x.size());
  for (std::size_t m = 0; m < s.m; ++m) {
    const QuantizedMatrix q =
        quantize_rtn({&x[m * s.k], 1, s.k}, format, executor, {.propagate_nonfinite = true});
    dequantize(q, {&out[m * s.k], 1, s.k}, executor);
  }
  return widened(out);
}

std::vector<float> run(const QuantizedMatrix& q, const LinearOptions& options, const Shape& s,
                       const std::vector<float>& x, Executor& executor, std::string* kernel) {
  const QuantizedLinear linear(q, options, executor);
  std::vector<float> y(s.m * s.n, std::numeric_limits<float>::quiet_NaN());
  Workspace workspace;
  linear.run({x.data(), s.m, s.k}, {y.data(), s.m, s.n}, workspace, executor);
  if (kernel != nullptr) *kernel = linear.kernel();
  return y;
}

/// `epsilons` half-ulps per term of the sum, and an absolute part for what underflows.
void expect_close(const std::vector<float>& y, const Reference& reference, double epsilons,
                  double absolute) {
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double tolerance = epsilons * 0x1p-24 * reference.bound[i] + absolute;
    ASSERT_LE(std::fabs(static_cast<double>(y[i]) - reference.y[i]), tolerance)
        << "at " << i << ": " << y[i] << " against " << reference.y[i] << ", sum of |terms| "
        << reference.bound[i];
  }
}

const std::vector<std::string>& specs() {
  static const std::vector<std::string> all = {"int4",
                                               "int4:group=16,scale=f32",
                                               "int4:group=128,scale=bf16",
                                               "int4:group=row",
                                               "int4:zero_point=true",
                                               "int4:zero_point=true,group=row",
                                               "fp4",
                                               "nf4",
                                               "nf4:block=32,double=true",
                                               "fp4_bnb",
                                               "mxfp4",
                                               "nvfp4",
                                               "nvfp4:search=4over6",
                                               "amxfp4",
                                               "amxfp4:scale=e4m3",
                                               "amxfp4:scale=e8m0",
                                               "amxfp4:scale=f16,group=64",
                                               "amxfp4:tensor_scale=true"};
  return all;
}

std::vector<std::string> supported_targets() {
  std::vector<std::string> out;
  for (const TargetInfo& target : list_targets()) {
    if (target.supported) out.push_back(target.name);
  }
  return out;
}

template <class Check>
void on_everything(Check check) {
  ThreadExecutor executor(3);
  for (const std::string& spec : specs()) {
    const AnyFormat format = parse_format(spec);
    for (const Shape& s : shapes()) {
      for (const bool nasty : {false, true}) {
        const Problem p = make_problem(s, nasty);
        const QuantizedMatrix q = quantize_rtn({p.weight.data(), s.n, s.k}, format, executor);
        SCOPED_TRACE(spec + " " + std::to_string(s.n) + "x" + std::to_string(s.k) +
                     " M=" + std::to_string(s.m) + (nasty ? " nasty" : ""));
        check(s, p, q, executor);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

/// What AVX-512's single dot for sign-split weights may add (gemm_a8_split.inl.h): half a unit for
/// every weight on the smaller side.
std::vector<double> split_slack(const QuantizedMatrix& q, const std::vector<double>& x,
                                const Shape& s) {
  const double step = static_cast<double>(integer_levels(q.format.info().levels).step);
  std::vector<double> out(s.m * s.n);
  for (std::size_t n = 0; n < s.n; ++n) {
    for (std::size_t k = 0; k < s.k; ++k) {
      const GroupScale scale = q.scale(n, k / q.group);
      const double larger = static_cast<double>(std::max(scale.positive, scale.negative));
      if (larger == 0) continue;
      const double unit =
          std::exp2(std::floor(std::log2(larger))) / 4 * step * static_cast<double>(q.tensor.scale);
      for (std::size_t m = 0; m < s.m; ++m) {
        out[m * s.n + n] += unit / 2 * std::fabs(x[m * s.k + k]);
      }
    }
  }
  return out;
}

// Groups are exact; the f32 part is one product and one FMA a group, and the products of scales.
TEST(Gemm, A8) {
  on_everything([](const Shape& s, const Problem& p, const QuantizedMatrix& q, Executor& executor) {
    for (const bool per_row : {false, true}) {
      // The dot group is the scale group where that is at most 256, else what packs best: found
      // from outside by asking for one scale a row, or by a format whose group is small.
      if (!per_row && q.format.info().group == 0) continue;
      const std::size_t group = per_row ? s.k : std::min<std::size_t>(q.group, 256);
      const std::vector<double> x = int8_values(p.x, s.k, group);
      const Reference reference = product(weight_values(q, true), x, s);
      const FormatInfo& info = q.format.info();
      const bool split = info.layout == ScaleLayout::sign_split &&
                         (info.scale_type == ScaleType::e5m2 || info.scale_type == ScaleType::e8m0);
      std::vector<float> exact;    // of the targets that take two dots for each sign
      std::vector<float> rounded;  // of those that take one
      for (const std::string& target : supported_targets()) {
        std::string kernel;
        const std::vector<float> y =
            run(q, {.path = Path::a8, .scale_per_row = per_row, .target = target}, s, p.x, executor,
                &kernel);
        SCOPED_TRACE(kernel);
        const bool rounds = split && target.starts_with("avx512");
        Reference allowed = reference;
        if (rounds) {
          const std::vector<double> slack = split_slack(q, x, s);
          constexpr double kPerTerm = 0x1p24;
          const double epsilons = 2 * static_cast<double>(s.k) / 16 + 8;
          for (std::size_t i = 0; i < slack.size(); ++i) {
            allowed.bound[i] += slack[i] * kPerTerm / epsilons;
          }
        }
        expect_close(y, allowed, 2 * static_cast<double>(s.k) / 16 + 8, 1e-37);
        mark_reached(kernel);
        std::vector<float>& same = rounds ? rounded : exact;
        if (same.empty()) same = y;
        ASSERT_EQ(std::memcmp(y.data(), same.data(), y.size() * sizeof(float)), 0)
            << "differs from the first target of its kind";
      }
    }
  });
}

// x is rounded to bf16; so is a level, or a level times its block scale, which changes nothing for
// the formats whose products bf16 holds.
TEST(Gemm, A16) {
  on_everything([](const Shape& s, const Problem& p, const QuantizedMatrix& q, Executor& executor) {
    const Reference reference = product(weight_values(q, false), bf16_values(widened(p.x)), s);
    const std::string& name = q.format.info().name;
    const ScaleType type = q.format.info().scale_type;
    const bool exact = (name == "mxfp4" || name == "nvfp4" || name == "amxfp4") &&
                       type != ScaleType::f16 && type != ScaleType::f32;
    for (const std::string& target : supported_targets()) {
      std::string kernel;
      const auto y = run(q, {.path = Path::a16, .target = target}, s, p.x, executor, &kernel);
      SCOPED_TRACE(kernel);
      // A bf16 rounding is at most 2^-8 of the value: 2^16 half-ulps of f32. vdpbf16ps takes
      // denormal inputs as zero: at most K products of 2^-126 with 1e7.
      expect_close(y, reference, 2 * static_cast<double>(s.k) + 8 + (exact ? 0 : 0x1p16),
                   static_cast<double>(s.k) * 1e7 * 0x1p-126 * 4);
      mark_reached(kernel);
    }
  });
}

TEST(Gemm, A32) {
  on_everything([](const Shape& s, const Problem& p, const QuantizedMatrix& q, Executor& executor) {
    const Reference reference = product(weight_values(q, false), widened(p.x), s);
    for (const std::string& target : supported_targets()) {
      std::string kernel;
      const auto y = run(q, {.path = Path::a32, .target = target}, s, p.x, executor, &kernel);
      SCOPED_TRACE(kernel);
      expect_close(y, reference, static_cast<double>(s.k) + 4, 1e-36);
      mark_reached(kernel);
    }
  });
}

// W4A4: the same format on both sides, and mixtures that take each of the three ways to compute.
TEST(Gemm, A4) {
  on_everything([](const Shape& s, const Problem& p, const QuantizedMatrix& q, Executor& executor) {
    for (const char* activations :
         {"", "mxfp4", "amxfp4", "int4:zero_point=true", "nf4", "nvfp4"}) {
      if (*activations == '\0' && q.format.info().double_quantized) continue;
      LinearOptions options{.path = Path::a4};
      if (*activations != '\0') options.activations = parse_format(activations);
      SCOPED_TRACE(std::string("activations ") + activations);
      const Reference reference =
          product(weight_values(q, false),
                  format_values(p.x, s, options.activations.value_or(q.format)), s);
      for (const std::string& target : supported_targets()) {
        options.target = target;
        std::string kernel;
        const auto y = run(q, options, s, p.x, executor, &kernel);
        SCOPED_TRACE(kernel);
        expect_close(y, reference, 2 * static_cast<double>(s.k) + 8,
                     static_cast<double>(s.k) * 1e7 * 0x1p-126 * 4);
      }
    }
  });
}

// The product AMXFP4 x AMXFP4 has no error at all where the sum fits f32: small integers and one
// scale.
TEST(Gemm, Amxfp4TimesItselfIsExact) {
  const Shape s{32, 64, 5};
  Random random(5);
  const auto small = [&](std::size_t count) {
    std::vector<float> out(count);
    constexpr float kValues[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
    for (std::size_t i = 0; i < count; ++i) {
      out[i] = kValues[random.index(8)] * (random.index(2) == 0 ? -1.0F : 1.0F);
      if (i % 32 == 0) out[i] = 6;
      if (i % 32 == 1) out[i] = -6;
    }
    return out;
  };
  const std::vector<float> weight = small(s.n * s.k);
  const std::vector<float> x = small(s.m * s.k);
  ThreadExecutor executor(2);
  const QuantizedMatrix q =
      quantize_rtn({weight.data(), s.n, s.k}, parse_format("amxfp4"), executor);
  const Reference reference = product(widened(weight), widened(x), s);
  for (const std::string& target : supported_targets()) {
    std::string kernel;
    const auto y = run(q, {.path = Path::a4, .target = target}, s, x, executor, &kernel);
    EXPECT_NE(kernel.find("gemm_a16"), std::string::npos) << kernel;
    expect_close(y, reference, 0, 0);
  }
}

// One dot for both signs is exact where no side is shifted, and where a shift leaves integers; two
// dots are taken where a side is 16 times the other, or missing.
TEST(Gemm, SignSplitOnInt8IsExactWhereNothingRounds) {
  const Shape s{48, 96, 13};
  Random random(6);
  for (const float negative_scale : {1.0F, 0.5F, 0.25F, 0.0625F, 0.0F}) {
    std::vector<float> weight(s.n * s.k);
    constexpr float kValues[] = {0, 2, 4, 6};
    for (std::size_t i = 0; i < weight.size(); ++i) {
      const float magnitude = i % 32 < 2 ? 6 : kValues[random.index(4)];
      const bool negative = i % 32 == 1 || (i % 32 != 0 && random.index(2) == 0);
      weight[i] = negative ? -magnitude * negative_scale : magnitude;
    }
    std::vector<float> x(s.m * s.k);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = i % 32 == 0 ? 127 : static_cast<float>(random.index(255)) - 127;
    }
    ThreadExecutor executor(2);
    const QuantizedMatrix q =
        quantize_rtn({weight.data(), s.n, s.k}, parse_format("amxfp4"), executor);
    const Reference reference = product(widened(weight), widened(x), s);
    for (const std::string& target : supported_targets()) {
      SCOPED_TRACE(target + " " + std::to_string(negative_scale));
      const auto y = run(q, {.path = Path::a8, .target = target}, s, x, executor, nullptr);
      expect_close(y, reference, 0, 0);
    }
  }
}

TEST(Gemm, ResultsDoNotDependOnThreadsOrTheRestOfTheBatch) {
  const Shape s{100, 352, 29};
  const Problem p = make_problem(s, false);
  ThreadExecutor one(1);
  for (const std::string& spec : specs()) {
    const QuantizedMatrix q = quantize_rtn({p.weight.data(), s.n, s.k}, parse_format(spec), one);
    for (const std::string& target : supported_targets()) {
      for (const Path path : {Path::a8, Path::a16, Path::a32, Path::a4}) {
        if (path == Path::a4 && q.format.info().double_quantized) continue;
        SCOPED_TRACE(spec + " " + path_name(path) + " " + target);
        const LinearOptions options{.path = path, .target = target};
        const auto expected = run(q, options, s, p.x, one, nullptr);
        for (const std::size_t threads : {2U, 3U, 8U}) {
          ThreadExecutor several(threads);
          const auto y = run(q, options, s, p.x, several, nullptr);
          ASSERT_EQ(std::memcmp(y.data(), expected.data(), y.size() * 4), 0);
        }
        if (path != Path::a8 && path != Path::a32) continue;
        const auto first = run(q, options, {s.n, s.k, 1}, p.x, one, nullptr);
        ASSERT_EQ(std::memcmp(first.data(), expected.data(), first.size() * 4), 0);
      }
    }
  }
}

TEST(Gemm, InfAndNanStayInTheirRow) {
  const Shape s{20, 100, 3};
  Problem p = make_problem(s, false);
  ThreadExecutor executor(2);
  p.x[1 * s.k + 50] = std::numeric_limits<float>::quiet_NaN();
  p.x[2 * s.k + 99] = std::numeric_limits<float>::infinity();
  for (const std::string& spec : specs()) {
    const QuantizedMatrix q =
        quantize_rtn({p.weight.data(), s.n, s.k}, parse_format(spec), executor);
    for (const std::string& target : supported_targets()) {
      for (const Path path : {Path::a8, Path::a16, Path::a32, Path::a4}) {
        if (path == Path::a4 && q.format.info().double_quantized) continue;
        SCOPED_TRACE(spec + " " + path_name(path) + " " + target);
        const auto y = run(q, {.path = path, .target = target}, s, p.x, executor, nullptr);
        for (std::size_t n = 0; n < s.n; ++n) {
          EXPECT_TRUE(std::isfinite(y[n]));
          EXPECT_FALSE(std::isfinite(y[s.n + n]) && std::isfinite(y[2 * s.n + n]));
          EXPECT_TRUE(std::isnan(y[s.n + n]));
        }
      }
    }
  }
}

// The bound that is stated for codebooks that are not small integers.
TEST(Gemm, IntegerLevelsAreWithinTheirBound) {
  for (const char* spec : {"nf4", "fp4_bnb"}) {
    const FormatInfo info = parse_format(spec).info();
    const IntegerLevels levels = integer_levels(info.levels);
    EXPECT_FALSE(levels.exact);
    for (std::size_t i = 0; i < 16; ++i) {
      const double value =
          static_cast<double>(levels.integer[i]) * static_cast<double>(levels.step);
      EXPECT_LE(std::fabs(value - static_cast<double>(info.levels[i])), 1.0 / 254 + 1e-7);
    }
  }
  for (const char* spec : {"int4", "int4:zero_point=true", "mxfp4", "nvfp4", "amxfp4", "fp4"}) {
    EXPECT_TRUE(integer_levels(parse_format(spec).info().levels).exact) << spec;
  }
}

}  // namespace
}  // namespace nybble::test
