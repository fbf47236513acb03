#pragma once

#include <cstddef>
#include <vector>

#include "nybble/executor.h"
#include "nybble/matrix.h"
#include "src/quantize/group_search.h"
#include "src/quantize/row_codes.h"
#include "src/quantize/straight_through.h"

namespace nybble {

/// What rounding a row of weights with errors e costs: e M e^T + 2 e d^T, and a constant.
struct RowLoss {
  std::vector<float> moment;  ///< M, K x K, symmetric
  std::vector<float> linear;  ///< d of every row, N x K, or empty: 0
};

/// The largest and the smallest value of each group of a row.
void group_ranges(const float* row, const RowCodes& codes, GroupRange* ranges);

/// The clip factors of all rows' groups, and which of them have negative scales.
struct Clips {
  std::vector<ClipLogs> logs;  ///< [rows][groups]
  std::vector<bool> negated;
};
Clips clips_of(MatrixView weight, const RowCodes& codes, Executor& executor);

/// Chooses the scales of row `row` of `codes` by its clips and encodes `x`; `ranges` gets the
/// clipped ranges of its groups.
void round_clipped(const float* x, const ClipLogs* logs, const std::vector<bool>& negated,
                   std::size_t row, RowCodes& codes, GroupRange* ranges);

/// Each row's loss.
std::vector<double> row_losses(MatrixView weight, const RowLoss& loss, const RowCodes& codes,
                               Executor& executor);

struct ClipTraining {
  int steps = 0;
  float rate = 0.01F;
  /// A row that got no better for so many steps is done.
  int patience = 0;
};

/// LWC with the rows as they are in `codes` for a start: of every row the best that came up. Rows
/// do not depend on each other.
void train_clips(MatrixView weight, const RowLoss& loss, const ClipTraining& training,
                 RowCodes& codes, Executor& executor);

}  // namespace nybble
