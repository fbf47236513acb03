#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "nybble/executor.h"
#include "nybble/format/format.h"
#include "nybble/matrix.h"
#include "src/quantize/group_search.h"

namespace nybble {

/// Which of `rows` rows is the i-th of `count` evenly spread ones.
inline std::size_t spread_row(std::size_t i, std::size_t count, std::size_t rows) {
  return i * rows / count;
}
/// `count` rows of a matrix, evenly spread (all if there are fewer), one after the other.
std::vector<float> spread_rows(MatrixView matrix, std::size_t count);

/// The largest |x| of each column.
std::vector<float> column_max_abs(MatrixView matrix);

/// What `weight` becomes if its columns are multiplied by `scale` (all 1 if empty), rounded to
/// nearest under `search` (importance: of the unscaled columns, or null) and divided again.
std::vector<float> round_scaled(MatrixView weight, const AnyFormat& format,
                                std::span<const float> scale, const ScaleSearch& search,
                                Executor& executor);

}  // namespace nybble
