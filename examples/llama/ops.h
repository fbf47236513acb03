#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "nybble/executor.h"
#include "nybble/matrix.h"

namespace llama {

using nybble::Executor;
using nybble::MatrixView;
using nybble::MutableMatrixView;

/// Scratch that grows to the largest matrix asked for and is used again.
class Buffer {
 public:
  MutableMatrixView view(std::size_t rows, std::size_t cols) {
    if (values_.size() < rows * cols) values_.resize(rows * cols);
    return {values_.data(), rows, cols};
  }

 private:
  std::vector<float> values_;
};

/// Calls function(begin, end) for pieces of 0 ... count, in parallel where `work` (about one
/// floating-point operation each) is worth waking threads for.
template <class F>
void parallel_ranges(std::size_t count, std::size_t work, Executor& executor, const F& function) {
  constexpr std::size_t kWorthThreads = 200'000;
  const std::size_t threads = executor.concurrency();
  if (threads == 1 || work < kWorthThreads) return function(std::size_t{0}, count);
  const std::size_t tasks = std::min(count, 4 * threads);
  executor.parallel_for(
      tasks, [&](std::size_t task) { function(count * task / tasks, count * (task + 1) / tasks); });
}

/// y (M x N) = x (M x K) w', w is N x K. Sums in f32, always in the same order.
void matmul(MatrixView x, MatrixView w, MutableMatrixView y);
/// The same over the executor's threads, with the same results.
void matmul(MatrixView x, MatrixView w, MutableMatrixView y, Executor& executor);

/// y = x / sqrt(mean(x^2) + epsilon) * gain, row by row.
void rms_norm(MatrixView x, std::span<const float> gain, float epsilon, MutableMatrixView y,
              Executor& executor);
/// gate = silu(gate) * up, silu(g) = g / (1 + exp(-g)).
void silu_multiply(MutableMatrixView gate, MatrixView up, Executor& executor);
/// x += y.
void add(MutableMatrixView x, MatrixView y, Executor& executor);
/// x += bias in every row; an empty bias is none.
void add_bias(MutableMatrixView x, std::span<const float> bias, Executor& executor);
/// The first `count` values become their softmax, the others 0.
void softmax(std::span<float> values, std::size_t count);

/// Rotary position embedding in the layout of Hugging Face checkpoints: channel i of a head turns
/// together with channel i + head_dim / 2.
class Rope {
 public:
  Rope(std::size_t positions, std::size_t head_dim, float theta);
  /// Turns each head of each row of x; row r is position `first + r`.
  void apply(MutableMatrixView x, std::size_t first, Executor& executor) const;

 private:
  std::size_t half_;
  std::vector<float> cos_, sin_;  // positions x half
};

}  // namespace llama
