#include "nybble/attention/kv_cache.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/registry.h"
#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "nybble/numeric/bfloat16.h"
#include "nybble/quantize/rtn.h"
#include "src/tensor/integer_levels.h"
#include "tests/support/kernel_reach.h"
#include "tests/support/random.h"
#include "tests/support/thread_executor.h"

namespace nybble::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::array kPaths = {Path::a8, Path::a16, Path::a32};
constexpr std::array kValueGroups = {ValueGroups::tokens, ValueGroups::head_dim};
constexpr std::array<std::size_t, 7> kLengths = {1, 15, 16, 17, 31, 33, 100};

struct Shape {
  std::size_t heads, kv_heads, head_dim;
};
constexpr std::array<Shape, 5> kShapes = {
    {{1, 1, 32}, {4, 2, 64}, {6, 2, 80}, {8, 4, 8}, {3, 1, 24}}};

const std::vector<std::string>& specs() {
  static const std::vector<std::string> all = {"int4",
                                               "int4:group=16,scale=f32",
                                               "int4:group=64,scale=bf16",
                                               "int4:zero_point=true",
                                               "int4:group=128,zero_point=true",
                                               "fp4",
                                               "nf4",
                                               "fp4_bnb:block=32",
                                               "mxfp4",
                                               "nvfp4",
                                               "nvfp4:search=4over6",
                                               "amxfp4",
                                               "amxfp4:scale=e8m0,search=mse",
                                               "amxfp4:scale=e4m3",
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

/// Numbers with what is needed to bound the error of computing with them.
struct Values {
  std::vector<double> value;  ///< what codes stand for
  std::vector<double> scale;  ///< of each; 0 for f32
  std::vector<double> level;  ///< |level|, and |zero - 8| more with a zero point; value in f32
};

/// Rows x cols through a format, each row in its groups, with a tensor scale of 1.
Values through(const AnyFormat& format, const std::vector<float>& x, std::size_t rows,
               std::size_t cols, bool integers) {
  const FormatInfo& info = format.info();
  // A last row whose peak makes the tensor scale 1.
  std::vector<float> anchored = x;
  anchored.resize((rows + 1) * cols);
  anchored[rows * cols] = info.name == "amxfp4"  ? 49152.0F
                          : info.spec == "nvfp4" ? 2688.0F
                                                 : 1536.0F;
  SerialExecutor serial;
  const QuantizedMatrix q = quantize_rtn({anchored.data(), rows + 1, cols}, format, serial);
  EXPECT_EQ(q.tensor.scale, 1.0F) << info.spec;
  const IntegerLevels rounded = integer_levels(info.levels);
  Values out;
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < cols; ++c) {
      const std::uint8_t code = q.code(r, c);
      const GroupScale scale = q.scale(r, c / q.group);
      double level = static_cast<double>(info.levels[code]);
      const double by = static_cast<double>(level < 0 ? scale.negative : scale.positive);
      if (integers) {
        level = static_cast<double>(rounded.integer[code]) * static_cast<double>(rounded.step);
      }
      const bool zero_point = info.layout == ScaleLayout::zero_point;
      const double zero = static_cast<double>(scale.zero);
      out.value.push_back((level - zero) * by);
      out.scale.push_back(static_cast<double>(std::max(scale.positive, scale.negative)));
      out.level.push_back(zero_point ? std::fabs(level - 8) + std::fabs(zero - 8)
                                     : std::fabs(level));
    }
  }
  return out;
}

struct Problem {
  Shape shape;
  std::size_t tokens;
  std::vector<float> k, v, q;

  Problem(const Shape& s, std::size_t count)
      : shape(s),
        tokens(count),
        k(normal_values(count * s.kv_heads * s.head_dim, 1)),
        v(normal_values(count * s.kv_heads * s.head_dim, 2)),
        q(normal_values(count * s.heads * s.head_dim, 3)) {
    // A channel of keys that is larger than the others, as models have them.
    for (std::size_t i = 3; i < k.size(); i += s.head_dim) k[i] *= 4;
  }
  [[nodiscard]] std::size_t kv_cols() const { return shape.kv_heads * shape.head_dim; }
  [[nodiscard]] std::size_t q_cols() const { return shape.heads * shape.head_dim; }
  [[nodiscard]] float scale() const { return 1 / std::sqrt(static_cast<float>(shape.head_dim)); }
  void append(KvCache& cache, std::size_t begin, std::size_t end, Executor& executor) const {
    cache.append({&k[begin * kv_cols()], end - begin, kv_cols()},
                 {&v[begin * kv_cols()], end - begin, kv_cols()}, executor);
  }
  /// The last `rows` positions of what the cache holds.
  [[nodiscard]] std::vector<float> attend(const KvCache& cache, std::size_t rows,
                                          Executor& executor) const {
    std::vector<float> out(rows * q_cols(), kNan);
    Workspace workspace;
    cache.attend({&q[(cache.size() - rows) * q_cols()], rows, q_cols()},
                 {out.data(), rows, q_cols()}, scale(), workspace, executor);
    return out;
  }
  /// Tokens [0, count) of a head, transposed or not.
  [[nodiscard]] std::vector<float> head(const std::vector<float>& x, std::size_t index,
                                        std::size_t count, bool transposed) const {
    std::vector<float> out(count * shape.head_dim);
    for (std::size_t t = 0; t < count; ++t) {
      for (std::size_t d = 0; d < shape.head_dim; ++d) {
        out[transposed ? d * count + t : t * shape.head_dim + d] =
            x[t * kv_cols() + index * shape.head_dim + d];
      }
    }
    return out;
  }
};

/// What a query becomes, exactly.
std::vector<double> query_values(const float* q, std::size_t count, std::size_t group, Path path) {
  std::vector<double> out(q, q + count);
  if (path == Path::a16) {
    for (double& x : out) {
      x = static_cast<double>(BFloat16::from_float(static_cast<float>(x)).to_float());
    }
  }
  if (path != Path::a8) return out;
  // The kernel has tests of its own (tests/kernels/slots_test.cpp).
  std::vector<std::int8_t> integers(count);
  std::vector<float> shifts((count + group - 1) / group);
  std::vector<std::int32_t> sums(shifts.size());
  float row_scale = 0;
  kernels::select("scalar").table->quantize_int8({.x = q,
                                                  .count = count,
                                                  .group = group,
                                                  .sum_group = group,
                                                  .q = integers.data(),
                                                  .row_scale = &row_scale,
                                                  .shifts = shifts.data(),
                                                  .sums = sums.data()});
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = static_cast<double>(integers[i]) * static_cast<double>(shifts[i / group]) *
             static_cast<double>(row_scale);
  }
  return out;
}

/// Attention in f64 over what codes stand for, row by row.
class Reference {
 public:
  Reference(const Problem& problem, const AnyFormat& format, ValueGroups groups, Path path,
            std::size_t size)
      : p_(problem), info_(format.info()), groups_(groups), path_(path) {
    const bool integers = path == Path::a8;
    const std::size_t dim = p_.shape.head_dim;
    const std::size_t unit = std::max<std::size_t>(info_.group, 32);
    coded_ = groups == ValueGroups::tokens ? size / unit * unit : size;
    for (std::size_t head = 0; head < p_.shape.kv_heads; ++head) {
      keys_.push_back(through(format, p_.head(p_.k, head, size, false), size, dim, integers));
      if (groups == ValueGroups::head_dim) {
        values_.push_back(through(format, p_.head(p_.v, head, size, false), size, dim, integers));
        continue;
      }
      Values rows;
      if (coded_ != 0) {
        rows = through(format, p_.head(p_.v, head, coded_, true), dim, coded_, integers);
      }
      Values values;  // tokens x head_dim
      for (std::size_t t = 0; t < size; ++t) {
        for (std::size_t d = 0; d < dim; ++d) {
          const auto f32 = static_cast<double>(p_.v[t * p_.kv_cols() + head * dim + d]);
          const bool coded = t < coded_;
          values.value.push_back(coded ? rows.value[d * coded_ + t] : f32);
          values.scale.push_back(coded ? rows.scale[d * coded_ + t] : 0);
          values.level.push_back(coded ? rows.level[d * coded_ + t] : std::fabs(f32));
        }
      }
      values_.push_back(values);
    }
  }

  /// Compares the outputs of position `position`.
  void check(std::size_t position, const float* out) const {
    const std::size_t shared = p_.shape.heads / p_.shape.kv_heads;
    for (std::size_t head = 0; head < p_.shape.heads; ++head) {
      check_head(position, head, head / shared, out + head * p_.shape.head_dim);
      if (testing::Test::HasFatalFailure()) return;
    }
  }

 private:
  void check_head(std::size_t position, std::size_t head, std::size_t kv_head,
                  const float* out) const {
    const std::size_t dim = p_.shape.head_dim;
    const std::size_t count = position + 1;
    const Values& keys = keys_[kv_head];
    const Values& values = values_[kv_head];
    const std::size_t dot = info_.group == 0 || info_.group % 32 == 0 ? 32 : 16;
    const std::vector<double> q =
        query_values(&p_.q[position * p_.q_cols() + head * dim], dim, dot, path_);
    const auto scale = static_cast<double>(p_.scale());

    // Scores: f32 sums of dim terms, and on a16 weights that bf16 may round.
    const double sum_error = static_cast<double>(dim + 16) * 0x1p-24;
    const double bf16 = path_ == Path::a16 && !exact_in_bf16() ? 0x1p-8 : 0;
    std::vector<double> weights(count);
    double worst = 0;
    for (std::size_t t = 0; t < count; ++t) {
      double magnitude = 0;
      for (std::size_t d = 0; d < dim; ++d) {
        weights[t] += scale * q[d] * keys.value[t * dim + d];
        magnitude += std::fabs(scale * q[d]) * keys.scale[t * dim + d] * keys.level[t * dim + d];
      }
      worst = std::max(worst, magnitude * (sum_error + bf16) + std::fabs(weights[t]) * 0x1p-22);
    }
    const double highest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - highest);
    for (double& weight : weights) weight /= sum;
    // A score that is off by e moves a weight by a factor within exp(2 e) together with the sum;
    // exp and the sum in f32 add a few units in the last place.
    const double weight_error = std::expm1(2 * worst) + static_cast<double>(count + 16) * 0x1p-24;

    const bool along_tokens = groups_ == ValueGroups::tokens;
    const std::size_t value_dot = along_tokens ? dot : 32;
    for (std::size_t d = 0; d < dim; ++d) {
      double expected = 0;
      double tolerance = 1e-30;
      std::vector<double> largest((count + value_dot - 1) / value_dot);
      for (std::size_t t = 0; t < count; ++t) {
        const double by = along_tokens ? 1 : values.scale[t * dim + d];
        largest[t / value_dot] = std::max(largest[t / value_dot], weights[t] * by);
      }
      for (std::size_t t = 0; t < count; ++t) {
        const std::size_t at = t * dim + d;
        expected += weights[t] * values.value[at];
        // What the codes are multiplied with: weights, or weights times scales.
        const double factor = along_tokens || t >= coded_ ? 1 : values.scale[at];
        const double level =
            along_tokens && t < coded_ ? std::fabs(values.value[at]) : values.level[at];
        const double term = weights[t] * factor * level;
        tolerance += weight_error * weights[t] * std::fabs(values.value[at]);
        tolerance += static_cast<double>(count + 16) * 0x1p-24 *
                     (term + weights[t] * values.scale[at] * values.level[at]);
        if (t >= coded_) continue;
        if (path_ == Path::a16) tolerance += term * (0x1p-8 + bf16);
        if (path_ != Path::a8) continue;
        // int8: half a step, and a step is at most twice the group's largest / 127.
        tolerance += largest[t / value_dot] / 126 * level;
      }
      ASSERT_NEAR(static_cast<double>(out[d]), expected, tolerance)
          << "position " << position << " head " << head << " channel " << d;
    }
  }

  [[nodiscard]] bool exact_in_bf16() const {
    return (info_.name == "mxfp4" || info_.name == "nvfp4" || info_.name == "amxfp4");
  }

  const Problem& p_;
  FormatInfo info_;
  ValueGroups groups_;
  Path path_;
  std::size_t coded_ = 0;
  std::vector<Values> keys_, values_;
};

std::string trace(const std::string& spec, ValueGroups groups, Path path, const Shape& shape) {
  return fmt::format("{} along {} {} heads {}/{} x {}", spec,
                     groups == ValueGroups::tokens ? "tokens" : "head_dim", path_name(path),
                     shape.heads, shape.kv_heads, shape.head_dim);
}

/// check(spec, format, groups, path, shape) for everything.
template <class Check>
void on_everything(Check check) {
  for (const std::string& spec : specs()) {
    const AnyFormat format = parse_format(spec);
    for (const ValueGroups groups : kValueGroups) {
      for (const Path path : kPaths) {
        for (const Shape& shape : kShapes) {
          SCOPED_TRACE(trace(spec, groups, path, shape));
          check(format, groups, path, shape);
          if (testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(KvCache, MatchesAttentionOverWhatItsCodesStandFor) {
  ThreadExecutor executor(2);
  on_everything([&](const AnyFormat& format, ValueGroups groups, Path path, const Shape& shape) {
    const Problem p(shape, kLengths.back());
    std::vector<KvCache> caches;
    for (const std::string& target : supported_targets()) {
      caches.emplace_back(shape.kv_heads, shape.head_dim, p.tokens,
                          KvCacheOptions{format, format, groups, path, target});
    }
    std::size_t stored = 0;
    for (const std::size_t length : kLengths) {
      const Reference reference(p, format, groups, path, length);
      for (KvCache& cache : caches) {
        p.append(cache, stored, length, executor);
        SCOPED_TRACE(
            fmt::format("{} tokens, {} and {}", length, cache.key_kernel(), cache.value_kernel()));
        for (const std::size_t rows : {std::size_t{1}, std::min<std::size_t>(length, 19)}) {
          const std::vector<float> out = p.attend(cache, rows, executor);
          for (std::size_t m = 0; m < rows; m += std::max<std::size_t>(1, rows - 1)) {
            reference.check(length - rows + m, &out[m * p.q_cols()]);
            if (testing::Test::HasFatalFailure()) return;
          }
        }
      }
      stored = length;
    }
  });
  for (const KernelInfo& kernel : list_kernels()) {
    const bool ours = kernel.slot == "softmax_weights" || kernel.slot == "scale_weights";
    if (ours && kernel.supported) mark_reached(kernel.name);
  }
}

// One step: all of softmax, on values whose exponentials cover what f32 holds and more.
TEST(KvCache, SoftmaxWeights) {
  for (const std::string& target : supported_targets()) {
    for (const std::size_t count : {1U, 7U, 15U, 16U, 17U, 100U, 1000U}) {
      std::vector<float> x = normal_values(count, count);
      for (float& value : x) value *= 60;
      const std::vector<float> scores = x;
      const float scale = -0.7F;  // the largest score may be the smallest x
      float sum = 0;
      kernels::select(target).table->softmax_weights({x.data(), count, scale, &sum});
      float highest = -std::numeric_limits<float>::infinity();
      for (const float score : scores) highest = std::max(highest, score * scale);
      double total = 0;
      for (std::size_t i = 0; i < count; ++i) {
        const double z = static_cast<double>(scores[i] * scale - highest);
        const double expected = z < -87 ? 0 : std::exp(z);
        ASSERT_NEAR(static_cast<double>(x[i]), expected, 3 * 0x1p-23 * expected) << target << i;
        total += static_cast<double>(x[i]);
      }
      EXPECT_NEAR(static_cast<double>(sum), total, total * static_cast<double>(count) * 0x1p-24);
      for (const float bad : {kNan, std::numeric_limits<float>::infinity()}) {
        x = scores;
        x[count / 2] = bad;
        kernels::select(target).table->softmax_weights({x.data(), count, scale, &sum});
        EXPECT_TRUE(std::isnan(sum));
        EXPECT_EQ(x, std::vector<float>(count, 0));
      }
    }
  }
}

// What is stored depends on the tokens alone: not on how many came at once, nor on what the memory
// held before.
TEST(KvCache, PiecesGiveTheSameBytesAsAllAtOnce) {
  ThreadExecutor executor(3);
  on_everything([&](const AnyFormat& format, ValueGroups groups, Path path, const Shape& shape) {
    if (path != Path::a8) return;
    const Problem p(shape, 100);
    const KvCacheOptions options{format, format, groups, path, {}};
    KvCache whole(shape.kv_heads, shape.head_dim, 100, options);
    KvCache pieces(shape.kv_heads, shape.head_dim, 137, options);
    p.append(pieces, 3, 90, executor);
    pieces.clear();
    EXPECT_EQ(pieces.size(), 0U);
    p.append(whole, 0, 100, executor);
    std::size_t begin = 0;
    for (const std::size_t size : {1U, 1U, 14U, 33U, 2U, 40U, 9U}) {
      p.append(pieces, begin, begin + size, executor);
      begin += size;
    }
    ASSERT_EQ(pieces.size(), 100U);
    EXPECT_EQ(pieces.bytes(), whole.bytes());
    const auto a = p.attend(whole, 100, executor);
    const auto b = p.attend(pieces, 100, executor);
    ASSERT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0);
  });
}

TEST(KvCache, ResultsDoNotDependOnThreadsRowsOrTargets) {
  ThreadExecutor one(1);
  const Shape shape{8, 2, 64};
  const Problem p(shape, 300);
  for (const std::string& spec : specs()) {
    for (const ValueGroups groups : kValueGroups) {
      for (const Path path : kPaths) {
        std::vector<float> first;
        for (const std::string& target : supported_targets()) {
          SCOPED_TRACE(trace(spec, groups, path, shape) + " " + target);
          const AnyFormat format = parse_format(spec);
          KvCache cache(2, 64, 300, {format, format, groups, path, target});
          p.append(cache, 0, 300, one);
          const auto expected = p.attend(cache, 30, one);
          for (const std::size_t threads : {2U, 3U, 8U}) {
            ThreadExecutor several(threads);
            const auto out = p.attend(cache, 30, several);
            ASSERT_EQ(std::memcmp(out.data(), expected.data(), out.size() * 4), 0) << threads;
          }
          if (path == Path::a16) continue;
          const auto last = p.attend(cache, 1, one);
          ASSERT_EQ(std::memcmp(last.data(), &expected[29 * p.q_cols()], last.size() * 4), 0);
          if (path != Path::a8) continue;
          if (first.empty()) first = expected;
          ASSERT_EQ(std::memcmp(first.data(), expected.data(), first.size() * 4), 0);
        }
      }
    }
  }
}

TEST(KvCache, DifferentFormatsForKeysAndValues) {
  ThreadExecutor executor(2);
  const Shape shape{4, 2, 64};
  const Problem p(shape, 70);
  const AnyFormat keys = parse_format("int4:group=row");
  const AnyFormat values = parse_format("int4:group=row");
  KvCache cache(2, 64, 70, {keys, values, ValueGroups::head_dim, Path::a32, {}});
  p.append(cache, 0, 70, executor);
  const auto out = p.attend(cache, 1, executor);
  Reference(p, keys, ValueGroups::head_dim, Path::a32, 70).check(69, out.data());
  // Two f16 scales a token and head, and 64 codes of half a byte each for k and v.
  EXPECT_EQ(cache.bytes(), 70U * 2 * (2 * 32 + 2 * 2));

  KvCache mixed(2, 64, 70, {keys, parse_format("amxfp4"), ValueGroups::tokens, Path::a8, {}});
  p.append(mixed, 0, 70, executor);
  EXPECT_EQ(mixed.bytes(), 2U * (70 * (32 + 2) + 64 * (64 / 2 + 2 * 2 + 6 * 4)));
  EXPECT_NE(mixed.explain().find("int4:group=row"), std::string::npos) << mixed.explain();
  EXPECT_NE(mixed.explain().find(mixed.value_kernel()), std::string::npos) << mixed.explain();
}

// A large constant part of a channel of keys: without it scales are finer, and softmax does not see
// that it is gone.
TEST(KvCache, KeyOffset) {
  SerialExecutor serial;
  const Shape shape{4, 2, 64};
  Problem p(shape, 70);
  std::vector<float> offset(p.kv_cols());
  for (std::size_t i = 0; i < offset.size(); ++i) offset[i] = i % 16 == 0 ? 20.0F : 0.25F;
  Problem centered = p;
  for (std::size_t i = 0; i < p.k.size(); ++i) {
    p.k[i] += offset[i % p.kv_cols()];
    centered.k[i] = p.k[i] - offset[i % p.kv_cols()];
  }
  const AnyFormat format = parse_format("int4");
  const auto run = [&](const Problem& problem, const std::vector<float>& key_offset) {
    KvCache cache(2, 64, 70, {format, format, ValueGroups::tokens, Path::a32, {}});
    if (!key_offset.empty()) cache.set_key_offset(key_offset);
    problem.append(cache, 0, 70, serial);
    EXPECT_THROW(cache.set_key_offset(offset), Error);  // not empty
    return problem.attend(cache, 1, serial);
  };
  EXPECT_EQ(run(p, offset), run(centered, {}));

  // Attention over keys that were never quantized.
  const auto error = [&](const std::vector<float>& out) {
    double sum = 0;
    for (std::size_t head = 0; head < 4; ++head) {
      const std::size_t at = head / 2 * 64;
      std::vector<double> weights(70);
      double total = 0;
      for (std::size_t t = 0; t < 70; ++t) {
        double score = 0;
        for (std::size_t d = 0; d < 64; ++d) {
          score += static_cast<double>(p.q[69 * 256 + head * 64 + d]) *
                   static_cast<double>(centered.k[t * 128 + at + d]) / 8;
        }
        total += weights[t] = std::exp(score);
      }
      for (std::size_t d = 0; d < 64; ++d) {
        double expected = 0;
        for (std::size_t t = 0; t < 70; ++t) {
          expected += weights[t] / total * static_cast<double>(p.v[t * 128 + at + d]);
        }
        sum += std::pow(static_cast<double>(out[head * 64 + d]) - expected, 2);
      }
    }
    return sum;
  };
  EXPECT_LT(error(run(p, offset)), 0.25 * error(run(p, {})));
  KvCache cache(2, 64, 70, {format, format, ValueGroups::tokens, Path::a8, {}});
  EXPECT_THROW(cache.set_key_offset({offset.data(), 64}), Error);
  offset[3] = kNan;
  EXPECT_THROW(cache.set_key_offset(offset), Error);
}

TEST(KvCache, InfAndNan) {
  SerialExecutor serial;
  const Shape shape{4, 2, 32};
  Problem p(shape, 40);
  const AnyFormat format = parse_format("mxfp4");
  for (const ValueGroups groups : kValueGroups) {
    for (const Path path : kPaths) {
      for (const std::string& target : supported_targets()) {
        SCOPED_TRACE(trace("mxfp4", groups, path, shape) + " " + target);
        KvCache cache(2, 32, 40, {format, format, groups, path, target});
        Problem bad = p;
        bad.v[20 * p.kv_cols() + 5] = kNan;
        EXPECT_THROW(bad.append(cache, 0, 40, serial), Error);
        EXPECT_EQ(cache.size(), 0U);
        p.append(cache, 0, 40, serial);
        const auto expected = p.attend(cache, 2, serial);
        for (const float value : {kNan, std::numeric_limits<float>::infinity()}) {
          bad = p;
          bad.q[38 * p.q_cols() + 2 * 32 + 7] = value;  // head 2 of the first of two rows
          const auto out = bad.attend(cache, 2, serial);
          for (std::size_t i = 0; i < out.size(); ++i) {
            if (i / 32 == 2) {
              EXPECT_TRUE(std::isnan(out[i])) << i;
            } else {
              EXPECT_EQ(out[i], expected[i]) << i;
            }
          }
        }
      }
    }
  }
}

template <class Call>
void expect_error(ErrorCode code, const std::string& part, Call call) {
  try {
    call();
    ADD_FAILURE() << "no error, expected one with: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(KvCache, Errors) {
  SerialExecutor serial;
  const auto make = [](const std::string& keys, const std::string& values, ValueGroups groups,
                       Path path = Path::a8, std::size_t capacity = 10) {
    return KvCache(2, 32, capacity, {parse_format(keys), parse_format(values), groups, path, {}});
  };
  const auto tokens = ValueGroups::tokens;
  const auto head_dim = ValueGroups::head_dim;
  expect_error(ErrorCode::unsupported, "double", [&] { make("nf4:double=true", "int4", tokens); });
  expect_error(ErrorCode::unsupported, "double", [&] { make("int4", "nf4:double=true", tokens); });
  expect_error(ErrorCode::unsupported, "along tokens of all",
               [&] { make("int4", "int4:group=row", tokens); });
  expect_error(ErrorCode::unsupported, "512", [&] { make("int4", "nf4:block=512", tokens); });
  EXPECT_NO_THROW(make("nf4:block=4096", "nf4:block=4096", head_dim));
  expect_error(ErrorCode::bad_option, "a4", [&] { make("int4", "int4", tokens, Path::a4); });
  expect_error(ErrorCode::bad_shape, "0 tokens",
               [&] { make("int4", "int4", tokens, Path::a8, 0); });
  expect_error(ErrorCode::bad_shape, "memory", [&] {
    make("int4", "int4", tokens, Path::a8, std::numeric_limits<std::size_t>::max() / 2);
  });
  expect_error(ErrorCode::bad_option, "avx9000", [&] {
    KvCache(1, 1, 1, {parse_format("int4"), parse_format("int4"), tokens, Path::a8, "avx9000"});
  });

  KvCache cache = make("int4", "int4", tokens);
  std::vector<float> x(64 * 12);
  std::vector<float> y(64 * 12);
  Workspace workspace;
  const auto append = [&](std::size_t rows, std::size_t cols) {
    cache.append({x.data(), rows, cols}, {x.data(), rows, cols}, serial);
  };
  const auto attend = [&](std::size_t rows, std::size_t cols, float* out, float scale = 1) {
    cache.attend({x.data(), rows, cols}, {out, rows, cols}, scale, workspace, serial);
  };
  expect_error(ErrorCode::bad_shape, "tokens stored", [&] { attend(1, 64, y.data()); });
  expect_error(ErrorCode::bad_shape, "expected both M x 64", [&] { append(2, 32); });
  expect_error(ErrorCode::bad_shape, "room for 10", [&] { append(11, 64); });
  append(8, 64);
  expect_error(ErrorCode::bad_shape, "3 tokens after 8", [&] { append(3, 64); });
  EXPECT_EQ(cache.size(), 8U);
  append(2, 64);
  expect_error(ErrorCode::bad_shape, "multiple of 64", [&] { attend(1, 96, y.data()); });
  expect_error(ErrorCode::bad_shape, "at most 10", [&] { attend(11, 64, y.data()); });
  expect_error(ErrorCode::bad_shape, "overlap", [&] { attend(2, 64, x.data() + 64); });
  expect_error(ErrorCode::bad_value, "scale", [&] { attend(1, 64, y.data(), kNan); });
  x[3 * 64 + 9] = std::numeric_limits<float>::infinity();
  cache.clear();
  expect_error(ErrorCode::bad_value, "inf in k at [3, 9]", [&] { append(5, 64); });
}

}  // namespace
}  // namespace nybble::test
