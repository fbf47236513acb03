#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "nybble/executor.h"
#include "nybble/quantize/rtn.h"
#include "nybble/transform/transform.h"
#include "src/concurrency.h"

namespace nybble {

/// What a thread keeps between calls of WeightRows::read.
struct ReadBuffer {
  std::vector<std::byte> bytes;
  std::vector<float> values;
};

/// The rows of a weight matrix, wherever they are. Read by several threads at once.
class WeightRows {
 public:
  virtual ~WeightRows() = default;
  [[nodiscard]] virtual std::size_t rows() const = 0;
  [[nodiscard]] virtual std::size_t cols() const = 0;
  /// Rows begin to begin + count - 1, in `scratch` or where they already are; valid until `scratch`
  /// is used again.
  virtual MatrixView read(std::size_t begin, std::size_t count, ReadBuffer& scratch) const = 0;

  /// How many rows at a time stay in a core's cache between being read and being used.
  [[nodiscard]] virtual std::size_t rows_at_once() const {
    constexpr std::size_t kValues = 32768;
    return std::max<std::size_t>(1, kValues / cols());
  }
};

class MatrixRows final : public WeightRows {
 public:
  explicit MatrixRows(MatrixView matrix) : matrix_(matrix) {}
  [[nodiscard]] std::size_t rows() const override { return matrix_.rows; }
  [[nodiscard]] std::size_t cols() const override { return matrix_.cols; }
  MatrixView read(std::size_t begin, std::size_t count, ReadBuffer& /*scratch*/) const override {
    return {matrix_.row(begin), count, matrix_.cols, matrix_.stride};
  }

 private:
  MatrixView matrix_;
};

/// Calls action(row, its values, state) for every row: a run of rows on each thread, which has a
/// state of its own from make_state().
template <class State, class Action>
void for_each_row(const WeightRows& weight, Executor& executor, const State& make_state,
                  const Action& action) {
  const std::size_t rows = weight.rows();
  const std::size_t tasks = std::min(rows, concurrency_of(executor) * 4);
  executor.parallel_for(tasks, [&](std::size_t task) {
    auto state = make_state();
    ReadBuffer buffer;
    const std::size_t end = rows * (task + 1) / tasks;
    const std::size_t step = weight.rows_at_once();
    for (std::size_t begin = rows * task / tasks; begin < end; begin += step) {
      const std::size_t count = std::min(step, end - begin);
      const MatrixView block = weight.read(begin, count, buffer);
      for (std::size_t i = 0; i < count; ++i) action(begin + i, block.row(i), state);
    }
  });
}

/// All values.
std::vector<float> all_values(const WeightRows& weight, Executor& executor);

/// Sums of squares of what was quantized, and of what that changed.
struct SquaredError {
  double signal = 0;
  double noise = 0;

  SquaredError& operator+=(const SquaredError& other) {
    signal += other.signal;
    noise += other.noise;
    return *this;
  }
  /// 10 log10(signal / noise); Inf for no error.
  [[nodiscard]] double sqnr_db() const;
};

/// Of one row and what it decoded to. Added up in f32 by runs of 512 values.
SquaredError squared_error(const kernels::KernelTable& table, const float* x, const float* decoded,
                           std::size_t count);

/// Of `weight` and what `matrix` behind `transforms` computes with, a few rows in memory at a time.
/// The same for any number of threads.
SquaredError squared_error(const WeightRows& weight, const QuantizedMatrix& matrix,
                           const Transforms& transforms, Executor& executor);

/// quantize_rtn, a few rows in memory at a time (read twice where the format has a tensor scale).
/// `error`, unless null, becomes what rounding did.
QuantizedMatrix quantize_rtn(const WeightRows& weight, const AnyFormat& format, Executor& executor,
                             const QuantizeOptions& options, SquaredError* error);

}  // namespace nybble
