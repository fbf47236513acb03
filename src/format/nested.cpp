#include <algorithm>
#include <cmath>
#include <vector>

#include "nybble/format/nf4.h"

namespace nybble {

namespace {

std::array<float, 256> make_nested_table() {
  std::vector<float> values = {0.0F, 1.0F};
  for (int decade = 0; decade < 7; ++decade) {
    // Means of neighbouring points of linspace(0.1, 1, 2^decade + 1), as f32 in torch.
    const int count = 1 << decade;
    const auto point = [count](int i) {
      const float step = (1.0F - 0.1F) / static_cast<float>(count);
      return i < (count + 1) / 2 ? 0.1F + step * static_cast<float>(i)
                                 : 1.0F - step * static_cast<float>(count - i);
    };
    for (int i = 0; i < count; ++i) {
      const float mean = (point(i) + point(i + 1)) / 2.0F;
      const float value = static_cast<float>(std::pow(10.0, decade - 6)) * mean;
      values.push_back(value);
      values.push_back(-value);
    }
  }
  std::sort(values.begin(), values.end());
  std::array<float, 256> table{};
  std::copy(values.begin(), values.end(), table.begin());
  return table;
}

}  // namespace

const std::array<float, 256>& nested_table() {
  static const std::array<float, 256> table = make_nested_table();
  return table;
}

void double_quantize(std::span<float> scales, std::span<std::uint8_t> codes,
                     std::span<float> nested_scales, float& offset) {
  const std::array<float, 256>& table = nested_table();
  double sum = 0;
  for (const float scale : scales) sum += static_cast<double>(scale);
  offset = static_cast<float>(sum / static_cast<double>(scales.size()));
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
