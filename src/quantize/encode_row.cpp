#include "src/quantize/encode_row.h"

#include <algorithm>

#include "nybble/format/nf4.h"

namespace nybble {

namespace {

/// Keeps, of each sign, the better of what is best so far and one more candidate.
class BestChoice {
 public:
  BestChoice(bool sign_split, ScaleChoice first, float positive_error, float negative_error)
      : split_(sign_split), best_(first), positive_(positive_error), negative_(negative_error) {}

  void offer(const ScaleChoice& choice, float positive_error, float negative_error) {
    if (!split_) {
      // Strictly less: ties keep the earlier candidate, as the references do.
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

}  // namespace

void encode_row(const kernels::KernelTable& table, const AnyFormat& format, const float* x,
                std::size_t count, std::size_t group, TensorScale tensor, const ScaleSearch& search,
                const RowScratch& scratch, std::uint8_t* codes) {
  const std::size_t groups = (count + group - 1) / group;
  const EncodeTable& encode = format.encode_table();
  const bool split = format.info().layout == ScaleLayout::sign_split;
  table.group_ranges({x, count, group, scratch.ranges.data()});
  format.choose(scratch.ranges.first(groups), tensor, 1, scratch.choices.data());

  const int candidates = format.candidate_count();
  if (candidates > 1 || search.grid > 1) {
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t begin = g * group;
      const std::size_t size = std::min(group, count - begin);
      const float* importance = search.importance == nullptr ? nullptr : search.importance + begin;
      const auto error_of = [&](const ScaleChoice& choice, float& positive, float& negative) {
        table.group_errors(
            {&encode, x + begin, importance, size, choice, tensor.scale, &positive, &negative});
      };
      float positive = 0;
      float negative = 0;
      error_of(scratch.choices[g], positive, negative);
      BestChoice best(split, scratch.choices[g], positive, negative);
      for (int i = 1; i < candidates; ++i) {
        const ScaleChoice choice = format.candidate(scratch.ranges[g], tensor, i);
        error_of(choice, positive, negative);
        best.offer(choice, positive, negative);
      }
      for (int i = 1; i < search.grid; ++i) {
        const float shrink =
            1 - (1 - search.smallest) * static_cast<float>(i) / static_cast<float>(search.grid - 1);
        const ScaleChoice choice = format.choose(scratch.ranges[g], tensor, shrink);
        error_of(choice, positive, negative);
        best.offer(choice, positive, negative);
      }
      scratch.choices[g] = best.best();
    }
  }

  // bitsandbytes divides in a block that is shorter than the others, and floors what it stores.
  const std::size_t whole = format.info().flattened_blocks ? count / group * group : count;
  table.encode({&encode, x, whole, group, scratch.choices.data(), codes});
  if (whole != count) {
    ScaleChoice& last = scratch.choices[groups - 1];
    const float scale = last.scale.positive == last.scale.positive
                            ? std::max(last.scale.positive, BnbScale::kSmallestAbsmax)
                            : last.scale.positive;
    last = {{scale, scale, 0}, scale, scale};
    EncodeTable dividing = encode;
    dividing.reciprocal = false;
    table.encode({&dividing, x + whole, count - whole, group, &last, codes + whole});
  }
}

}  // namespace nybble
