#include "nybble/tensor/statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <numeric>

#include "src/concurrency.h"

namespace nybble {

namespace {

constexpr std::uint32_t kExponentMask = 255;

/// Counts by the exponent field of f32, one pass without a branch a value that matters.
class Counter {
 public:
  explicit Counter(float smallest_normal) : smallest_normal_(smallest_normal) {}

  void add(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const float magnitude = std::fabs(value);
    const std::uint32_t exponent = bits >> 23 & kExponentMask;
    ++fields_[exponent];
    out_.negative += value < 0 ? 1U : 0U;
    out_.zero += magnitude == 0 ? 1U : 0U;
    out_.denormal += magnitude != 0 && magnitude < smallest_normal_ ? 1U : 0U;
    if (exponent == kExponentMask) {
      ++(std::isnan(value) ? out_.nan : out_.inf);
    } else {
      out_.smallest = std::min(out_.smallest, value);
      out_.largest = std::max(out_.largest, value);
      if (exponent == 0 && magnitude != 0) ++out_.octaves[std::ilogb(magnitude)];
    }
  }

  [[nodiscard]] ValueStatistics finish() const {
    ValueStatistics out = out_;
    out.count = std::accumulate(fields_.begin(), fields_.end(), std::size_t{0});
    for (std::size_t field = 1; field < kExponentMask; ++field) {
      if (fields_[field] != 0) out.octaves[static_cast<int>(field) - 127] += fields_[field];
    }
    return out;
  }

 private:
  float smallest_normal_;
  std::array<std::size_t, 256> fields_{};
  ValueStatistics out_;
};

/// Merges what count(begin, end) finds in the parts of 0 ... size.
template <class Statistics, class Count>
Statistics in_parts(std::size_t size, std::size_t part, Executor& executor, Count count) {
  const std::size_t parts = std::clamp<std::size_t>(size / std::max<std::size_t>(part, 1), 1,
                                                    concurrency_of(executor) * 4);
  Statistics out;
  std::mutex mutex;
  executor.parallel_for(parts, [&](std::size_t task) {
    const Statistics found = count(size * task / parts, size * (task + 1) / parts);
    const std::scoped_lock lock(mutex);
    out.merge(found);
  });
  return out;
}

constexpr std::size_t kPart = std::size_t{1} << 16;  ///< elements that are worth a task

/// Of rows begin ... end.
class MatrixCounter {
 public:
  explicit MatrixCounter(const QuantizedMatrix& matrix) : matrix_(matrix) {
    const auto& levels = matrix.format.info().levels;
    const auto [least, most] = std::minmax_element(levels.begin(), levels.end());
    for (std::size_t code = 0; code < 16; ++code) {
      is_end_[code] = levels[code] == *least || levels[code] == *most;
    }
  }

  [[nodiscard]] QuantizedStatistics count(std::size_t begin, std::size_t end) const {
    QuantizedStatistics out;
    count_codes(begin, end, out);
    const FormatInfo& info = matrix_.format.info();
    const bool split = info.layout == ScaleLayout::sign_split;
    Counter scales(smallest_normal(info.double_quantized ? ScaleType::f32 : info.scale_type));
    for (std::size_t row = begin; row < end; ++row) {
      for (std::size_t group = 0; group < matrix_.groups; ++group) {
        const GroupScale scale = matrix_.scale(row, group);
        scales.add(scale.positive);
        if (split) scales.add(scale.negative);
        if (matrix_.zero_points.empty()) continue;
        const std::uint8_t zero = matrix_.zero_points[row * matrix_.groups + group];
        if (zero < 16) ++out.zero_points[zero];
      }
    }
    out.scales = scales.finish();
    return out;
  }

 private:
  void count_codes(std::size_t begin, std::size_t end, QuantizedStatistics& out) const {
    std::array<std::size_t, 256> bytes{};
    const std::size_t row_bytes = matrix_.padded_cols / 2;
    for (std::size_t row = begin; row < end; ++row) {
      const std::uint8_t* codes = &matrix_.codes[row * row_bytes];
      for (std::size_t i = 0; i < matrix_.cols / 2; ++i) ++bytes[codes[i]];
      if (matrix_.cols % 2 != 0) ++out.codes[codes[matrix_.cols / 2] & 15];
    }
    for (std::size_t byte = 0; byte < 256; ++byte) {
      out.codes[byte & 15] += bytes[byte];
      out.codes[byte >> 4] += bytes[byte];
    }
    for (std::size_t code = 0; code < 16; ++code) {
      if (is_end_[code]) out.end_codes += out.codes[code];
    }
  }

  const QuantizedMatrix& matrix_;
  std::array<bool, 16> is_end_{};
};

}  // namespace

void ValueStatistics::merge(const ValueStatistics& other) {
  count += other.count;
  nan += other.nan;
  inf += other.inf;
  zero += other.zero;
  negative += other.negative;
  denormal += other.denormal;
  smallest = std::min(smallest, other.smallest);
  largest = std::max(largest, other.largest);
  for (const auto& [octave, values] : other.octaves) octaves[octave] += values;
}

ValueStatistics value_statistics(std::span<const float> values, float smallest_normal,
                                 Executor& executor) {
  return in_parts<ValueStatistics>(values.size(), kPart, executor,
                                   [&](std::size_t begin, std::size_t end) {
                                     Counter counter(smallest_normal);
                                     for (std::size_t i = begin; i < end; ++i) {
                                       counter.add(values[i]);
                                     }
                                     return counter.finish();
                                   });
}

float smallest_normal(ScaleType type) {
  switch (type) {
    case ScaleType::f32:
    case ScaleType::bf16:
      return 0x1p-126F;
    case ScaleType::f16:
    case ScaleType::e5m2:
      return 0x1p-14F;
    case ScaleType::e4m3:
    case ScaleType::e4m3x480:
      return 0x1p-6F;
    case ScaleType::e8m0:
      break;
  }
  return 0;
}

std::size_t QuantizedStatistics::elements() const {
  return std::accumulate(codes.begin(), codes.end(), std::size_t{0});
}

void QuantizedStatistics::merge(const QuantizedStatistics& other) {
  for (std::size_t i = 0; i < 16; ++i) {
    codes[i] += other.codes[i];
    zero_points[i] += other.zero_points[i];
  }
  scales.merge(other.scales);
  end_codes += other.end_codes;
}

QuantizedStatistics quantized_statistics(const QuantizedMatrix& matrix, Executor& executor) {
  matrix.check();
  const MatrixCounter counter(matrix);
  return in_parts<QuantizedStatistics>(
      matrix.rows, kPart / matrix.cols, executor,
      [&](std::size_t begin, std::size_t end) { return counter.count(begin, end); });
}

}  // namespace nybble
