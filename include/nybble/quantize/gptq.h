#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "nybble/quantize/calibration.h"
#include "nybble/quantize/rtn.h"

namespace nybble {

/// What is added to the diagonal of H = X^T X before it is inverted.
struct Damping {
  enum class Kind : std::uint8_t {
    mean,      ///< amount times the mean of the diagonal, to every channel alike (the reference)
    diagonal,  ///< amount times each channel's own element
  };
  Kind kind = Kind::mean;
  float amount = 0.01F;
};

/// The order in which columns are rounded; each one's error goes to those that come after it.
enum class ColumnOrder : std::uint8_t {
  natural,      ///< as stored
  activation,   ///< by descending diagonal of H ("act-order")
  group_aware,  ///< groups by their largest diagonal element, within a group by descending one
                ///< (GAR)
};

/// How a group's scale is chosen.
enum class ScaleChooser : std::uint8_t {
  range,   ///< as round to nearest does
  search,  ///< the least error weighted by what an error in each column costs
};

struct GptqOptions : QuantizeOptions {
  /// None: the best of a few, by the error on held-out tokens.
  std::optional<Damping> damping = std::nullopt;
  ColumnOrder order = ColumnOrder::activation;
  ScaleChooser scales = ScaleChooser::search;
  /// Scales from the weights as they were. false: from what they have become when the first column
  /// of their group is due; with order = activation the groups are then of columns that follow each
  /// other in that order, and the result has a permutation.
  bool static_groups = true;
  /// With dynamic groups: leave out the updates of the current block of 128 columns, as the
  /// reference's code does.
  bool stale_groups = false;
  /// Channels that never were other than 0 in calibration: their weights become 0, as the reference
  /// has it, or are rounded to nearest.
  bool zero_dead_channels = false;
  /// Passes over all codes afterwards, each code to the best value given all others (QuantEase's
  /// coordinate descent), until nothing changes. 0 = none.
  int descent_passes = 3;
  /// Solutions for the scales that fit the rounded codes best (decoupleQ), each followed by more
  /// descent. 0 = none.
  int refits = 1;
};

/// What was decided and how good it is. Errors are sums of squares of the outputs' errors over the
/// calibration tokens, relative to the outputs' own, of up to 128 rows evenly spread.
struct GptqReport {
  Damping damping;
  int damping_raised = 0;     ///< how often the damping was multiplied by 10 until H was positive
  std::size_t dead = 0;       ///< channels that never were other than 0
  double rounded_error = 0;   ///< after GPTQ itself
  double error = 0;           ///< after descent and refits
  std::size_t descended = 0;  ///< codes that descent changed
};

struct GptqResult {
  QuantizedMatrix matrix;
  /// Of the input; empty unless dynamic groups in activation order. Ascending inside each group.
  Permutation permutation;
  GptqReport report;
};

/// GPTQ (arXiv 2210.17323) for any format, with the improvements above. `weight` is N x K,
/// `calibration` of K channels. Rows are independent of each other: but for the tensor scale, any
/// subset of rows comes out the same. The same bytes for any number of threads and any kernel
/// target. Throws bad_shape, bad_value (Inf or NaN), bad_option.
GptqResult quantize_gptq(MatrixView weight, const AnyFormat& format, const Calibration& calibration,
                         Executor& executor, const GptqOptions& options = {});

/// sum over tokens of |x (a - b)^T|^2: the squared output error that replacing the weights a by b
/// makes under the second moment `moment` (K x K).
double output_error(MatrixView a, MatrixView b, MatrixView moment, Executor& executor);

}  // namespace nybble
