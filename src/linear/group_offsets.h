#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "nybble/matrix.h"
#include "nybble/tensor/quantized_matrix.h"

namespace nybble {

/// What formats with offsets add to a product, beside the kernels that know none: y[n] += the sum
/// over groups of offset[n][group] times the sum of x over the group. In f32 and in ascending
/// order, whatever the executor and the target.
class GroupOffsets {
 public:
  GroupOffsets() = default;
  /// Of a matrix whose format has offsets; of any other, nothing is added.
  explicit GroupOffsets(const QuantizedMatrix& matrix);

  /// Per row; 0 where there are no offsets.
  [[nodiscard]] std::size_t groups() const { return groups_; }
  [[nodiscard]] std::size_t bytes() const { return offsets_.size() * sizeof(float); }
  /// groups() sums of a row of x.
  void sum_groups(std::span<const float> x, float* sums) const;
  /// Adds to columns `begin` to `end` of y (the last of which may lie outside), with groups() sums
  /// for each of its rows.
  void add(const float* sums, std::size_t begin, std::size_t end, MutableMatrixView y) const;

 private:
  std::size_t group_ = 0;
  std::size_t groups_ = 0;
  std::vector<float> offsets_;  ///< [N][groups]
};

}  // namespace nybble
