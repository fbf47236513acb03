#include "src/quantize/group_search.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "nybble/format/element.h"
#include "nybble/format/scale.h"

namespace nybble {

namespace {

/// Keeps the better of what is best so far and one more candidate; of each sign where those have
/// scales of their own. Ties keep the earlier one, as the references do.
class BestChoice {
 public:
  BestChoice(bool sign_split, const ScaleChoice& first, float positive_error, float negative_error)
      : split_(sign_split), best_(first), positive_(positive_error), negative_(negative_error) {}

  void offer(const ScaleChoice& choice, float positive_error, float negative_error) {
    if (!split_) {
      if (positive_error + negative_error < positive_ + negative_) {
        best_ = choice;
        positive_ = positive_error;
        negative_ = negative_error;
      }
      return;
    }
    if (positive_error < positive_) {
      best_.scale.positive = choice.scale.positive;
      best_.encode_positive = choice.encode_positive;
      positive_ = positive_error;
    }
    if (negative_error < negative_) {
      best_.scale.negative = choice.scale.negative;
      best_.encode_negative = choice.encode_negative;
      negative_ = negative_error;
    }
  }
  [[nodiscard]] const ScaleChoice& best() const { return best_; }

 private:
  bool split_;
  ScaleChoice best_;
  float positive_;
  float negative_;
};

constexpr std::size_t kCandidateBatch = 32;

/// Whether a negative scale makes levels that a positive one does not, and can be stored.
bool signs_differ(const FormatInfo& info) {
  const bool signed_type = info.scale_type == ScaleType::f32 || info.scale_type == ScaleType::f16 ||
                           info.scale_type == ScaleType::bf16;
  if (info.layout != ScaleLayout::symmetric || !signed_type || info.double_quantized) return false;
  return std::any_of(info.levels.begin(), info.levels.end(), [&](float level) {
    return std::find(info.levels.begin(), info.levels.end(), -level) == info.levels.end();
  });
}

bool same(const ScaleChoice& a, const ScaleChoice& b) {
  return a.scale.positive == b.scale.positive && a.scale.negative == b.scale.negative &&
         a.scale.zero == b.scale.zero;
}

/// Calls add(choice) for every candidate of a group.
template <class Add>
void for_each_candidate(const AnyFormat& format, const ScaleSearch& search, GroupRange range,
                        TensorScale tensor, const Add& add) {
  const bool signs = search.both_signs && signs_differ(format.info());
  const bool zeros = format.info().layout == ScaleLayout::zero_point;
  const auto add_variants = [&](const ScaleChoice& choice) {
    add(choice);
    if (signs) {
      add({{-choice.scale.positive, -choice.scale.negative, 0},
           -choice.encode_positive,
           -choice.encode_negative});
    }
    for (int step = 1; zeros && step <= search.zero_steps; ++step) {
      for (const float offset : {static_cast<float>(-step), static_cast<float>(step)}) {
        ScaleChoice moved = choice;
        moved.scale.zero += offset;
        if (moved.scale.zero >= 0 && moved.scale.zero <= 15) add(moved);
      }
    }
  };

  ScaleChoice last;
  for (int i = 0; i < format.candidate_count(); ++i) {
    last = format.candidate(range, tensor, i);
    add_variants(last);
  }
  const bool from_one = search.largest == 1.0F;  // which the format's own is
  for (int i = from_one ? 1 : 0; search.grid > 1 && i < search.grid; ++i) {
    const float step = static_cast<float>(i) / static_cast<float>(search.grid - 1);
    const float shrink = search.largest - (search.largest - search.smallest) * step;
    const float most = absmax(range) * shrink;
    const ScaleChoice choice =
        search.cut_ends
            ? format.choose({std::min(range.max, most), std::max(range.min, -most)}, tensor, 1)
            : format.choose(range, tensor, shrink);
    if (same(choice, last)) continue;  // coarse scale types repeat themselves
    last = choice;
    add_variants(choice);
  }
}

}  // namespace

ScaleSearch calibrated_search(const float* importance) {
  return {.grid = 50,
          .smallest = 0.3F,
          .importance = importance,
          .largest = 1.15F,
          .zero_steps = 1,
          .both_signs = true};
}

ScaleChoice search_group(const kernels::KernelTable& table, const AnyFormat& format,
                         const ScaleSearch& search, const float* x, const float* importance,
                         std::size_t count, GroupRange range, TensorScale tensor) {
  const EncodeTable& encode = format.encode_table();
  ScaleChoice batch[kCandidateBatch];
  float positive[kCandidateBatch];
  float negative[kCandidateBatch];
  std::size_t waiting = 0;
  std::optional<BestChoice> best;
  const auto judge = [&] {
    table.group_errors(
        {&encode, x, importance, count, batch, waiting, tensor.scale, positive, negative});
    for (std::size_t i = 0; i < waiting; ++i) {
      if (!best) {
        best.emplace(format.info().layout == ScaleLayout::sign_split, batch[0], positive[0],
                     negative[0]);
      } else {
        best->offer(batch[i], positive[i], negative[i]);
      }
    }
    waiting = 0;
  };
  const auto add = [&](const ScaleChoice& choice) {
    batch[waiting++] = choice;
    if (waiting == kCandidateBatch) judge();
  };
  for_each_candidate(format, search, range, tensor, add);
  if (waiting != 0) judge();
  return best->best();
}

ScaleChoice search_group_output(const AnyFormat& format, const ScaleSearch& search, const float* x,
                                const float* moment, std::size_t count, GroupRange range,
                                TensorScale tensor) {
  const EncodeTable& encode = format.encode_table();
  ScaleChoice best;
  float least = 0;
  bool first = true;
  std::vector<float> error(count);
  for_each_candidate(format, search, range, tensor, [&](const ScaleChoice& choice) {
    for (std::size_t i = 0; i < count; ++i) {
      const float level = encode.level[encode_value(encode, choice, x[i])];
      const float by = level < 0 ? choice.scale.negative : choice.scale.positive;
      error[i] = x[i] - (level - choice.scale.zero) * (by * tensor.scale);
    }
    float sum = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const float* row = moment + i * search.moment_stride;
      float product = 0;
      for (std::size_t j = 0; j < i; ++j) product += row[j] * error[j];
      sum += error[i] * (2 * product + row[i] * error[i]);
    }
    if (first || sum < least) {
      best = choice;
      least = sum;
      first = false;
    }
  });
  return best;
}

}  // namespace nybble
