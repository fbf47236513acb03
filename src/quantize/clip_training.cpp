#include "src/quantize/clip_training.h"

#include <algorithm>
#include <cmath>

#include "kernels/registry.h"
#include "src/linalg/dense.h"

namespace nybble {

void group_ranges(const float* row, const RowCodes& codes, GroupRange* ranges) {
  kernels::select().table->group_ranges({row, codes.cols, codes.group, ranges});
}

Clips clips_of(MatrixView weight, const RowCodes& codes, Executor& executor) {
  Clips out{std::vector<ClipLogs>(codes.choices.size()), std::vector<bool>(codes.choices.size())};
  executor.parallel_for(codes.rows, [&](std::size_t row) {
    std::vector<GroupRange> ranges(codes.groups);
    group_ranges(weight.row(row), codes, ranges.data());
    for (std::size_t g = 0; g < codes.groups; ++g) {
      out.logs[row * codes.groups + g] =
          clip_of(codes.format, ranges[g], codes.choice(row, g), codes.tensor);
    }
  });
  // Bits of one word belong to many rows: not in parallel.
  for (std::size_t i = 0; i < codes.choices.size(); ++i) {
    out.negated[i] = codes.choices[i].scale.positive < 0;
  }
  return out;
}

void round_clipped(const float* x, const ClipLogs* logs, const std::vector<bool>& negated,
                   std::size_t row, RowCodes& codes, GroupRange* ranges) {
  group_ranges(x, codes, ranges);
  for (std::size_t g = 0; g < codes.groups; ++g) {
    codes.choice(row, g) = choose_clipped(codes.format, ranges[g], logs[g],
                                          negated[row * codes.groups + g], codes.tensor);
    ranges[g] = clipped(ranges[g], logs[g]);
  }
  kernels::select().table->encode({&codes.format.encode_table(), x, codes.cols, codes.group,
                                   &codes.choices[row * codes.groups],
                                   &codes.codes[row * codes.cols]});
}

namespace {

/// Rows whose errors are multiplied with the moment at a time.
constexpr std::size_t kRows = 512;

void row_errors(const float* x, const RowCodes& codes, std::size_t row, float* errors) {
  for (std::size_t i = 0; i < codes.cols; ++i) errors[i] = codes.value(row, i) - x[i];
}

/// e M e^T + 2 e d^T, given e and e M.
double loss_of(const float* errors, const float* products, const float* linear, std::size_t count) {
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double slope = static_cast<double>(products[i]) +
                         (linear == nullptr ? 0.0 : 2 * static_cast<double>(linear[i]));
    sum += static_cast<double>(errors[i]) * slope;
  }
  return sum;
}

/// One row's training.
struct RowState {
  std::size_t row = 0;
  double best = 0;
  float normal = 0;  ///< what gradients are multiplied by, so that Adam's epsilon is small
  int stale = 0;
};

class Trainer {
 public:
  Trainer(MatrixView weight, const RowLoss& loss, const ClipTraining& training, RowCodes& codes,
          Executor& executor)
      : weight_(weight),
        loss_(loss),
        training_(training),
        best_(codes),
        now_(codes),
        clips_(clips_of(weight, codes, executor)),
        moments_(2 * codes.choices.size()),
        executor_(executor) {}

  void run() {
    for (std::size_t begin = 0; begin < weight_.rows; begin += kRows) {
      run_rows(begin, std::min(kRows, weight_.rows - begin));
    }
  }

 private:
  void run_rows(std::size_t begin, std::size_t count) {
    const std::size_t k = weight_.cols;
    std::vector<float> errors(count * k);
    std::vector<float> products(count * k);
    std::vector<GroupRange> ranges(count * now_.groups);
    std::vector<RowState> active(count);
    for (std::size_t i = 0; i < count; ++i) active[i].row = begin + i;
    Adam adam(training_.rate);
    // Step 0 judges the start, whose scales clips need not make again; the next is by the clips.
    for (int step = 0; step <= training_.steps && !active.empty(); ++step) {
      executor_.parallel_for(active.size(), [&](std::size_t i) {
        const std::size_t row = active[i].row;
        if (step == 0) {
          group_ranges(weight_.row(row), now_, &ranges[i * now_.groups]);
          for (std::size_t g = 0; g < now_.groups; ++g) {
            GroupRange& range = ranges[i * now_.groups + g];
            range = clipped(range, clips_.logs[row * now_.groups + g]);
          }
        } else {
          round_clipped(weight_.row(row), &clips_.logs[row * now_.groups], clips_.negated, row,
                        now_, &ranges[i * now_.groups]);
        }
        row_errors(weight_.row(row), now_, row, &errors[i * k]);
      });
      linalg::multiply({errors.data(), active.size(), k}, {loss_.moment.data(), k, k},
                       {products.data(), active.size(), k}, linalg::Update::assign, executor_);
      adam.next_step();
      executor_.parallel_for(active.size(), [&](std::size_t i) {
        judge(active[i], &errors[i * k], &products[i * k], step);
        change_clips(active[i], &errors[i * k], &products[i * k], &ranges[i * now_.groups], adam);
      });
      std::erase_if(active, [&](const RowState& state) {
        return state.normal == 0 || state.stale > training_.patience;
      });
    }
  }

  [[nodiscard]] const float* linear(std::size_t row) const {
    return loss_.linear.empty() ? nullptr : &loss_.linear[row * weight_.cols];
  }

  void judge(RowState& state, const float* errors, const float* products, int step) {
    const std::size_t k = weight_.cols;
    const double loss = loss_of(errors, products, linear(state.row), k);
    ++state.stale;
    if (step == 0) {
      const double size = loss_of(errors, products, nullptr, k);
      state.normal = size > 0 ? static_cast<float>(1 / size) : 0;
      if (!std::isfinite(state.normal)) state.normal = 0;
    } else if (!(loss < state.best)) {
      return;
    }
    state.best = loss;
    state.stale = 0;
    std::copy_n(&now_.codes[state.row * k], k, &best_.codes[state.row * k]);
    std::copy_n(&now_.choices[state.row * now_.groups], now_.groups,
                &best_.choices[state.row * now_.groups]);
  }

  /// `products` becomes the gradient.
  void change_clips(const RowState& state, const float* errors, float* products,
                    const GroupRange* ranges, const Adam& adam) {
    const std::size_t k = weight_.cols;
    const float* d = linear(state.row);
    for (std::size_t i = 0; i < k; ++i) {
      products[i] = 2 * state.normal * (products[i] + (d == nullptr ? 0.0F : d[i]));
    }
    for (std::size_t g = 0; g < now_.groups; ++g) {
      const std::size_t at = g * now_.group;
      const std::size_t index = state.row * now_.groups + g;
      const ClipLogs gradient = straight_through(
          {&now_.format.encode_table(), now_.choices[index], now_.tensor, ranges[g],
           weight_.row(state.row) + at, errors + at, products + at, std::min(now_.group, k - at)},
          nullptr);
      clips_.logs[index].high += adam.change(moments_[2 * index], gradient.high);
      clips_.logs[index].low += adam.change(moments_[2 * index + 1], gradient.low);
    }
  }

  MatrixView weight_;
  const RowLoss& loss_;
  ClipTraining training_;
  RowCodes& best_;
  RowCodes now_;
  Clips clips_;
  std::vector<AdamMoments> moments_;  ///< high and low of each group
  Executor& executor_;
};

}  // namespace

std::vector<double> row_losses(MatrixView weight, const RowLoss& loss, const RowCodes& codes,
                               Executor& executor) {
  const std::size_t k = weight.cols;
  std::vector<double> out(weight.rows);
  for (std::size_t begin = 0; begin < weight.rows; begin += kRows) {
    const std::size_t count = std::min(kRows, weight.rows - begin);
    std::vector<float> errors(count * k);
    std::vector<float> products(count * k);
    executor.parallel_for(count, [&](std::size_t i) {
      row_errors(weight.row(begin + i), codes, begin + i, &errors[i * k]);
    });
    linalg::multiply({errors.data(), count, k}, {loss.moment.data(), k, k},
                     {products.data(), count, k}, linalg::Update::assign, executor);
    executor.parallel_for(count, [&](std::size_t i) {
      const float* linear = loss.linear.empty() ? nullptr : &loss.linear[(begin + i) * k];
      out[begin + i] = loss_of(&errors[i * k], &products[i * k], linear, k);
    });
  }
  return out;
}

void train_clips(MatrixView weight, const RowLoss& loss, const ClipTraining& training,
                 RowCodes& codes, Executor& executor) {
  Trainer(weight, loss, training, codes, executor).run();
}

}  // namespace nybble
