#include "src/quantize/straight_through.h"

#include <algorithm>
#include <cmath>

#include "nybble/format/scale.h"

namespace nybble {

namespace {

/// The largest and the smallest number a group can hold.
GroupRange reach(const EncodeTable& table, const ScaleChoice& choice, TensorScale tensor) {
  const auto [least, most] = std::minmax_element(table.level.begin(), table.level.end());
  const auto value = [&](float level) {
    const float by = level < 0 ? choice.scale.negative : choice.scale.positive;
    return (level - choice.scale.zero) * (by * tensor.scale);
  };
  const float a = value(*most);
  const float b = value(*least);
  return {std::max(a, b), std::min(a, b)};
}

/// Factors beyond these make no scale worth trying.
constexpr float kLeastLog = -4;
constexpr float kMostLog = 2;

float log_ratio(float value, float of) {
  if (!(value != 0 && of != 0)) return value == 0 && of != 0 ? kLeastLog : 0;
  return std::clamp(std::log(std::fabs(value / of)), kLeastLog, kMostLog);
}

}  // namespace

GroupRange clipped(GroupRange range, ClipLogs clip) {
  if (clip.high != 0) range.max *= std::exp(std::clamp(clip.high, kLeastLog, kMostLog));
  if (clip.low != 0) range.min *= std::exp(std::clamp(clip.low, kLeastLog, kMostLog));
  return range;
}

ScaleChoice choose_clipped(const AnyFormat& format, GroupRange range, ClipLogs clip, bool negated,
                           TensorScale tensor) {
  ScaleChoice out = format.choose(clipped(range, clip), tensor, 1);
  if (negated) {
    out = {{-out.scale.positive, -out.scale.negative, out.scale.zero},
           -out.encode_positive,
           -out.encode_negative};
  }
  return out;
}

ClipLogs clip_of(const AnyFormat& format, GroupRange range, const ScaleChoice& choice,
                 TensorScale tensor) {
  const ScaleChoice whole = format.choose(range, tensor, 1);
  switch (format.info().layout) {
    case ScaleLayout::symmetric: {
      const float log = log_ratio(choice.scale.positive, whole.scale.positive);
      return {log, log};
    }
    case ScaleLayout::sign_split:
      return {log_ratio(choice.scale.positive, whole.scale.positive),
              log_ratio(choice.scale.negative, whole.scale.negative)};
    case ScaleLayout::zero_point:
      break;
  }
  const GroupRange held = reach(format.encode_table(), choice, tensor);
  // A range of one sign is extended to 0, which no factor moves.
  return {range.max > 0 ? log_ratio(held.max, range.max) : 0,
          range.min < 0 ? log_ratio(held.min, range.min) : 0};
}

ClipLogs straight_through(const StraightThroughArgs& args, float* x_log_gradient) {
  const ScaleLayout layout = args.table->layout;
  const GroupRange ends = reach(*args.table, args.choice, args.tensor);
  // Of the positive side (or of both), of the negative one: values between the outermost levels,
  // values beyond the upper one, beyond the lower one.
  double inside[2] = {0, 0};
  double above[2] = {0, 0};
  double below[2] = {0, 0};
  std::size_t high_at = 0;
  std::size_t low_at = 0;
  for (std::size_t i = 0; i < args.count; ++i) {
    const float x = args.x[i];
    if (x > args.x[high_at]) high_at = i;
    if (x < args.x[low_at]) low_at = i;
    const auto gradient = static_cast<double>(args.gradient[i]);
    const std::size_t side = layout == ScaleLayout::sign_split && x < 0 ? 1 : 0;
    if (x > ends.max) {
      above[side] += gradient;
    } else if (x < ends.min) {
      below[side] += gradient;
    } else {
      inside[side] += gradient * static_cast<double>(args.error[i]);
      if (x_log_gradient != nullptr) x_log_gradient[i] += args.gradient[i] * x;
    }
  }
  const auto by_scale = [&](std::size_t side) {
    return inside[side] + above[side] * static_cast<double>(ends.max) +
           below[side] * static_cast<double>(ends.min);
  };
  double high = 0;
  double low = 0;
  switch (layout) {
    case ScaleLayout::symmetric:
      (args.range.max >= -args.range.min ? high : low) = by_scale(0);
      break;
    case ScaleLayout::sign_split:
      high = by_scale(0);
      low = by_scale(1);
      break;
    case ScaleLayout::zero_point: {
      // scale = (top - bottom) / 15 between the outermost levels, which are top and bottom.
      const auto top = static_cast<double>(std::max(args.range.max, 0.0F));
      const auto bottom = static_cast<double>(std::min(args.range.min, 0.0F));
      const double by_width = top > bottom ? inside[0] / (top - bottom) : 0;
      high = (by_width + above[0]) * top;
      low = (below[0] - by_width) * bottom;
      break;
    }
  }
  if (x_log_gradient != nullptr && args.count != 0) {
    x_log_gradient[high_at] += static_cast<float>(high);
    x_log_gradient[low_at] += static_cast<float>(low);
  }
  return {static_cast<float>(high), static_cast<float>(low)};
}

namespace {

constexpr float kFirstDecay = 0.9F;
constexpr float kSecondDecay = 0.999F;
constexpr float kEpsilon = 1e-8F;

}  // namespace

void Adam::next_step() {
  first_power_ *= kFirstDecay;
  second_power_ *= kSecondDecay;
}

float Adam::change(AdamMoments& moments, float gradient) const {
  moments.first += (1 - kFirstDecay) * (gradient - moments.first);
  moments.second += (1 - kSecondDecay) * (gradient * gradient - moments.second);
  const float first = moments.first / (1 - first_power_);
  const float second = moments.second / (1 - second_power_);
  return -rate_ * first / (std::sqrt(second) + kEpsilon);
}

}  // namespace nybble
