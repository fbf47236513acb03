#include <algorithm>
#include <cmath>

#include "nybble/format/nf4.h"

namespace nybble {

namespace {

/// Point i of torch.linspace(0.1, 1, count + 1) in f32, to the last bit: PyTorch's CPU kernel goes
/// from the nearer end, in vectors of 8 from a fused base, two vectors at a time
/// (aten/src/ATen/native/cpu/RangeFactoriesKernel.cpp).
float linspace_point(int i, int count) {
  const float step = (1.0F - 0.1F) / static_cast<float>(count);
  const int vectorized = (count + 1) / 16 * 16;
  const int base = i < vectorized ? i / 8 * 8 : i;
  const float start = base < (count + 1) / 2
                          ? std::fma(step, static_cast<float>(base), 0.1F)
                          : std::fma(-step, static_cast<float>(count - base), 1.0F);
  return start + step * static_cast<float>(i - base);
}

std::array<float, 256> make_nested_table() {
  std::array<float, 256> table = {0.0F, 1.0F};
  std::size_t size = 2;
  for (int decade = 0; decade < 7; ++decade) {
    const int count = 1 << decade;
    const auto power = static_cast<float>(std::pow(10.0, decade - 6));
    for (int i = 0; i < count; ++i) {
      const float mean = (linspace_point(i, count) + linspace_point(i + 1, count)) / 2.0F;
      table[size++] = power * mean;
      table[size++] = -(power * mean);
    }
  }
  std::sort(table.begin(), table.end());
  return table;
}

/// The f32 sum in the order of PyTorch's CPU kernel (SumKernel.cpp): rows of 4 vectors of 8, added
/// up in a cascade of 16 rows a level. So the mean has the last bits it has there, as far as torch
/// sums on one thread (32768 values); compared with its results for up to 32 values.
float torch_sum(std::span<const float> values) {
  constexpr std::size_t kVector = 8;
  constexpr std::size_t kRow = 4 * kVector;
  constexpr std::size_t kStep = 16;
  std::array<std::array<float, kRow>, 4> levels{};
  const auto add = [](std::span<float> to, std::span<const float> from) {
    for (std::size_t i = 0; i < from.size(); ++i) to[i] += from[i];
  };
  std::size_t at = 0;
  for (std::size_t row = 1; at + kRow <= values.size(); ++row, at += kRow) {
    add(levels[0], values.subspan(at, kRow));
    std::size_t full = kStep;
    for (std::size_t level = 1; level < levels.size() && row % full == 0; ++level, full *= kStep) {
      add(levels[level], levels[level - 1]);
      levels[level - 1] = {};
    }
  }
  for (std::size_t level = 1; level < levels.size(); ++level) add(levels[0], levels[level]);
  const std::span<float> lanes = std::span(levels[0]).first(kVector);
  for (; at + kVector <= values.size(); at += kVector) add(lanes, values.subspan(at, kVector));
  for (std::size_t k = kVector; k < kRow; k += kVector) {
    add(lanes, std::span(levels[0]).subspan(k, kVector));
  }
  float sum = 0;
  for (const float value : values.subspan(at)) sum += value;
  for (const float lane : lanes) sum += lane;
  return sum;
}

}  // namespace

const std::array<float, 256>& nested_table() {
  static const std::array<float, 256> table = make_nested_table();
  return table;
}

void double_quantize(std::span<float> scales, std::span<std::uint8_t> codes,
                     std::span<float> nested_scales, float& offset) {
  const std::array<float, 256>& table = nested_table();
  offset = torch_sum(scales) / static_cast<float>(scales.size());
  for (std::size_t begin = 0; begin < scales.size(); begin += kNestedBlock) {
    const std::size_t end = std::min(scales.size(), begin + kNestedBlock);
    float largest = 0;
    for (std::size_t i = begin; i < end; ++i)
      largest = std::max(largest, std::fabs(scales[i] - offset));
    nested_scales[begin / kNestedBlock] = largest;
    // As bitsandbytes: full blocks multiply by the reciprocal, the last, shorter one divides.
    const bool full = end - begin == kNestedBlock;
    const float safe = std::max(largest, BnbScale::kSmallestAbsmax);
    const float inverse = 1.0F / safe;
    for (std::size_t i = begin; i < end; ++i) {
      const float centred = scales[i] - offset;
      const float z = std::clamp(full ? centred * inverse : centred / safe, -1.0F, 1.0F);
      // Nearest entry; a tie goes to the lower one.
      std::size_t code = 0;
      for (std::size_t half = 128; half != 0; half /= 2) {
        const std::size_t next = code + half;
        if (next < 256 && z > (table[next - 1] + table[next]) / 2) code = next;
      }
      codes[i] = static_cast<std::uint8_t>(code);
      scales[i] = table[code] * largest + offset;
    }
  }
}

}  // namespace nybble
