#include "src/quantize/encode_row.h"

#include <algorithm>
#include <optional>

#include "nybble/format/nf4.h"

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

/// The best of the format's own candidates and the shrunken ranges for one group.
ScaleChoice search_group(const kernels::KernelTable& table, const AnyFormat& format, const float* x,
                         const float* importance, std::size_t count, GroupRange range,
                         TensorScale tensor, const ScaleSearch& search) {
  const EncodeTable& encode = format.encode_table();
  const int own = format.candidate_count();
  const int total = own + search.grid - 1;
  const auto candidate = [&](int i) {
    if (i < own) return format.candidate(range, tensor, i);
    const float step = static_cast<float>(i - own + 1) / static_cast<float>(search.grid - 1);
    return format.choose(range, tensor, 1 - (1 - search.smallest) * step);
  };
  ScaleChoice choices[kCandidateBatch];
  float positive[kCandidateBatch];
  float negative[kCandidateBatch];
  std::optional<BestChoice> best;
  for (int begin = 0; begin < total; begin += static_cast<int>(kCandidateBatch)) {
    const std::size_t size =
        std::min<std::size_t>(kCandidateBatch, static_cast<std::size_t>(total - begin));
    for (std::size_t i = 0; i < size; ++i) choices[i] = candidate(begin + static_cast<int>(i));
    table.group_errors(
        {&encode, x, importance, count, choices, size, tensor.scale, positive, negative});
    for (std::size_t i = 0; i < size; ++i) {
      if (!best) {
        best.emplace(format.info().layout == ScaleLayout::sign_split, choices[0], positive[0],
                     negative[0]);
      } else {
        best->offer(choices[i], positive[i], negative[i]);
      }
    }
  }
  return best->best();
}

}  // namespace

void encode_row(const kernels::KernelTable& table, const AnyFormat& format, const float* x,
                std::size_t count, std::size_t group, TensorScale tensor, const ScaleSearch& search,
                const RowScratch& scratch, std::uint8_t* codes) {
  const std::size_t groups = (count + group - 1) / group;
  const EncodeTable& encode = format.encode_table();
  table.group_ranges({x, count, group, scratch.ranges.data()});
  if (format.candidate_count() == 1 && search.grid == 1) {
    format.choose(scratch.ranges.first(groups), tensor, 1, scratch.choices.data());
  } else {
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t begin = g * group;
      scratch.choices[g] =
          search_group(table, format, x + begin,
                       search.importance == nullptr ? nullptr : search.importance + begin,
                       std::min(group, count - begin), scratch.ranges[g], tensor, search);
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
