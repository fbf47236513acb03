#pragma once

#include <cstddef>

#include "kernels/kernels.h"
#include "nybble/format/format.h"

namespace nybble {

/// The scale candidates a group is tried with: the format's own (its search), then shrunken ranges,
/// then variants of all of them.
struct ScaleSearch {
  int grid = 1;                       ///< 1: only the format's own candidates
  float smallest = 1.0F;              ///< the last shrink factor of the grid
  const float* importance = nullptr;  ///< per column, or null
  float largest = 1.0F;               ///< where the grid starts
  int zero_steps = 0;                 ///< zero points up to so many off
  bool both_signs = false;            ///< where levels are not symmetric: negative scales, too
  /// Ends of a range are cut at the shrunken largest magnitude, instead of both shrinking.
  bool cut_ends = false;
  /// Second moment of the inputs, K x K: errors are of the group's share of the output, e M e^T,
  /// instead of sums of squares. Or null.
  const float* moment = nullptr;
  std::size_t moment_stride = 0;
};

/// The search the calibrated quantizers use: `importance` makes its squared errors the layer's.
ScaleSearch calibrated_search(const float* importance);

/// The candidate with the least weighted squared error for one group of `count` values; of each
/// sign where those have scales of their own. Ties keep the earlier one, as the references do.
/// `importance` of these values, or null. Allocates nothing.
ScaleChoice search_group(const kernels::KernelTable& table, const AnyFormat& format,
                         const ScaleSearch& search, const float* x, const float* importance,
                         std::size_t count, GroupRange range, TensorScale tensor);

/// The candidate with the least e M e^T over one group, M being the group's block of the moment.
ScaleChoice search_group_output(const AnyFormat& format, const ScaleSearch& search, const float* x,
                                const float* moment, std::size_t count, GroupRange range,
                                TensorScale tensor);

}  // namespace nybble
