#pragma once

#include <span>

#include "nybble/quantize/rtn.h"

namespace nybble {

struct ClipSearchOptions : QuantizeOptions {
  int grid = 80;          ///< shrink factors tried per group
  float smallest = 0.2F;  ///< the last of them; the first is 1
  /// Importance of each input channel, K values >= 0 (for example the mean of x^2 of a calibration
  /// set): weighs the squared errors. Empty = all alike.
  std::span<const float> importance = {};
  /// Second moment X^T X of the inputs, K x K: the error is that of each group's share of the
  /// output (AWQ's loss), not importance. Empty (null data) = none.
  MatrixView moment = {};
  /// AWQ's clipping: values are cut at the shrunken largest magnitude of the group, so that the
  /// nearer end of its range moves only once it is reached. false: both ends shrink.
  bool cut_ends = false;
};

/// Per group, the scale among `grid` shrunken ranges (and the format's own candidates) with the
/// least weighted squared error; sign-split formats choose each sign's scale on its own. Never
/// worse than round to nearest in that measure. Same guarantees and errors as quantize_rtn.
QuantizedMatrix quantize_clip_search(MatrixView weight, const AnyFormat& format, Executor& executor,
                                     const ClipSearchOptions& options = {});

}  // namespace nybble
