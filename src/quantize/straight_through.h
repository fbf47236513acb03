#pragma once

#include <cstddef>

#include "nybble/format/format.h"

namespace nybble {

/// Logarithms of what a group's largest and smallest value are multiplied by before its scale is
/// chosen: the parameters of OmniQuant's LWC.
struct ClipLogs {
  float high = 0;
  float low = 0;
};

GroupRange clipped(GroupRange range, ClipLogs clip);

/// The scale of a clipped range; `negated`: of the other sign, where a search found that better.
ScaleChoice choose_clipped(const AnyFormat& format, GroupRange range, ClipLogs clip, bool negated,
                           TensorScale tensor);

/// The clip whose choice comes nearest to `choice`.
ClipLogs clip_of(const AnyFormat& format, GroupRange range, const ScaleChoice& choice,
                 TensorScale tensor);

/// One group that was rounded.
struct StraightThroughArgs {
  const EncodeTable* table;
  ScaleChoice choice;
  TensorScale tensor;
  GroupRange range;       ///< as the scale was chosen for: clipped
  const float* x;         ///< before rounding
  const float* error;     ///< rounded - x
  const float* gradient;  ///< of the loss, by the rounded values
  std::size_t count;
};

/// The gradient of the loss by the logarithms of the range's ends. Rounding x / scale to a level
/// counts as adding a constant, and so does rounding a zero point; rounding a scale counts as
/// multiplying by one. So a rounded value moves with its scale by error / scale between the
/// outermost levels, and as those do beyond them.
/// x_log_gradient, unless null: `count` values to which the gradient by log|x| is added, that
/// through the range's ends included.
ClipLogs straight_through(const StraightThroughArgs& args, float* x_log_gradient);

/// Adam (arXiv 1412.6980) without weight decay, for parameters that are stepped together.
struct AdamMoments {
  float first = 0;
  float second = 0;
};
class Adam {
 public:
  explicit Adam(float rate) : rate_(rate) {}
  /// Before every round of changes.
  void next_step();
  /// What a parameter changes by for a gradient.
  [[nodiscard]] float change(AdamMoments& moments, float gradient) const;

 private:
  float rate_;
  float first_power_ = 1;
  float second_power_ = 1;
};

}  // namespace nybble
