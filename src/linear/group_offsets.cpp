#include "src/linear/group_offsets.h"

#include <algorithm>

#include "kernels/kernels.h"

namespace nybble {

GroupOffsets::GroupOffsets(const QuantizedMatrix& matrix) {
  if (!matrix.format.info().offsets) return;
  group_ = matrix.group;
  groups_ = matrix.groups;
  offsets_.reserve(matrix.rows * groups_);
  for (std::size_t n = 0; n < matrix.rows; ++n) {
    for (std::size_t g = 0; g < groups_; ++g) {
      const GroupScale scale = matrix.scale(n, g);
      // What kernel_levels() took away.
      offsets_.push_back(scale.offset + kernels::kMiddleLevel * scale.positive);
    }
  }
}

void GroupOffsets::sum_groups(std::span<const float> x, float* sums) const {
  for (std::size_t g = 0; g < groups_; ++g) {
    float sum = 0;
    const std::size_t end = std::min(x.size(), (g + 1) * group_);
    for (std::size_t k = g * group_; k < end; ++k) sum += x[k];
    sums[g] = sum;
  }
}

void GroupOffsets::add(const float* sums, std::size_t begin, std::size_t end,
                       MutableMatrixView y) const {
  if (groups_ == 0) return;
  end = std::min(end, y.cols);
  for (std::size_t n = begin; n < end; ++n) {
    const float* offset = &offsets_[n * groups_];
    for (std::size_t m = 0; m < y.rows; ++m) {
      float sum = 0;
      for (std::size_t g = 0; g < groups_; ++g) sum += offset[g] * sums[m * groups_ + g];
      y.at(m, n) += sum;
    }
  }
}

}  // namespace nybble
