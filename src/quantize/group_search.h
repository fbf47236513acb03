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
};

/// The search the calibrated quantizers use: `importance` makes its squared errors the layer's.
ScaleSearch calibrated_search(const float* importance);

/// The candidate with the least weighted squared error for one group of `count` values; of each
/// sign where those have scales of their own. Ties keep the earlier one, as the references do.
/// `importance` of these values, or null. Allocates nothing.
ScaleChoice search_group(const kernels::KernelTable& table, const AnyFormat& format,
                         const ScaleSearch& search, const float* x, const float* importance,
                         std::size_t count, GroupRange range, TensorScale tensor);

}  // namespace nybble
