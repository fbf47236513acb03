#include "ops.h"

#include <cmath>
#include <cstring>

namespace llama {
namespace {

constexpr std::size_t kLanes = 4;
/// Four partial sums side by side. Compilers may not reorder float sums by themselves; four lanes
/// are a register on every 64-bit CPU, so that all of them give the same bits.
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));

Lanes load(const float* values) {
  Lanes lanes;
  std::memcpy(&lanes, values, sizeof(lanes));
  return lanes;
}

/// y[r][c] = x[r] . w[c] for R rows and C columns: R * C sums that stay in registers.
template <std::size_t R, std::size_t C>
void tile(const float* x, std::size_t x_stride, const float* w, std::size_t w_stride, std::size_t k,
          float* y, std::size_t y_stride) {
  Lanes sums[R][C] = {};
  std::size_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    Lanes left[R];
    for (std::size_t r = 0; r < R; ++r) left[r] = load(x + r * x_stride + i);
    for (std::size_t c = 0; c < C; ++c) {
      const Lanes right = load(w + c * w_stride + i);
      for (std::size_t r = 0; r < R; ++r) sums[r][c] += left[r] * right;
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t c = 0; c < C; ++c) {
      float sum = (sums[r][c][0] + sums[r][c][1]) + (sums[r][c][2] + sums[r][c][3]);
      for (std::size_t j = i; j < k; ++j) sum += x[r * x_stride + j] * w[c * w_stride + j];
      y[r * y_stride + c] = sum;
    }
  }
}

/// All rows of x against the C rows of w from `n` on.
template <std::size_t C>
void strip(MatrixView x, MatrixView w, MutableMatrixView y, std::size_t n) {
  std::size_t m = 0;
  for (; m + 2 <= x.rows; m += 2) {
    tile<2, C>(x.row(m), x.stride, w.row(n), w.stride, x.cols, y.row(m) + n, y.stride);
  }
  if (m < x.rows) {
    tile<1, C>(x.row(m), x.stride, w.row(n), w.stride, x.cols, y.row(m) + n, y.stride);
  }
}

void strips(MatrixView x, MatrixView w, MutableMatrixView y, std::size_t begin, std::size_t end) {
  std::size_t n = begin;
  for (; n + 4 <= end; n += 4) strip<4>(x, w, y, n);
  for (; n < end; ++n) strip<1>(x, w, y, n);
}

}  // namespace

void matmul(MatrixView x, MatrixView w, MutableMatrixView y) { strips(x, w, y, 0, w.rows); }

void matmul(MatrixView x, MatrixView w, MutableMatrixView y, Executor& executor) {
  const std::size_t blocks = (w.rows + 3) / 4;
  parallel_ranges(blocks, 2 * x.rows * w.rows * x.cols, executor,
                  [&](std::size_t begin, std::size_t end) {
                    strips(x, w, y, 4 * begin, std::min(4 * end, w.rows));
                  });
}

void rms_norm(MatrixView x, std::span<const float> gain, float epsilon, MutableMatrixView y,
              Executor& executor) {
  parallel_ranges(x.rows, 4 * x.rows * x.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t m = begin; m < end; ++m) {
      const float* in = x.row(m);
      float* out = y.row(m);
      float sum = 0;
      for (std::size_t i = 0; i < x.cols; ++i) sum += in[i] * in[i];
      const float root = std::sqrt(sum / static_cast<float>(x.cols) + epsilon);
      for (std::size_t i = 0; i < x.cols; ++i) out[i] = in[i] / root * gain[i];
    }
  });
}

void silu_multiply(MutableMatrixView gate, MatrixView up, Executor& executor) {
  parallel_ranges(gate.rows, 20 * gate.rows * gate.cols, executor,
                  [&](std::size_t begin, std::size_t end) {
                    for (std::size_t m = begin; m < end; ++m) {
                      float* g = gate.row(m);
                      const float* u = up.row(m);
                      for (std::size_t i = 0; i < gate.cols; ++i)
                        g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
                    }
                  });
}

void add(MutableMatrixView x, MatrixView y, Executor& executor) {
  parallel_ranges(x.rows, x.rows * x.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t m = begin; m < end; ++m) {
      for (std::size_t i = 0; i < x.cols; ++i) x.row(m)[i] += y.row(m)[i];
    }
  });
}

void add_bias(MutableMatrixView x, std::span<const float> bias, Executor& executor) {
  if (bias.empty()) return;
  parallel_ranges(x.rows, x.rows * x.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t m = begin; m < end; ++m) {
      for (std::size_t i = 0; i < x.cols; ++i) x.row(m)[i] += bias[i];
    }
  });
}

void softmax(std::span<float> values, std::size_t count) {
  float largest = values[0];
  for (std::size_t i = 1; i < count; ++i) largest = std::max(largest, values[i]);
  float sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = std::exp(values[i] - largest);
    sum += values[i];
  }
  for (std::size_t i = 0; i < count; ++i) values[i] /= sum;
  std::fill(values.begin() + static_cast<std::ptrdiff_t>(count), values.end(), 0.0F);
}

Rope::Rope(std::size_t positions, std::size_t head_dim, float theta)
    : half_(head_dim / 2), cos_(positions * half_), sin_(positions * half_) {
  for (std::size_t i = 0; i < half_; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const float frequency = 1 / std::pow(theta, exponent);
    for (std::size_t position = 0; position < positions; ++position) {
      const float angle = static_cast<float>(position) * frequency;
      cos_[position * half_ + i] = std::cos(angle);
      sin_[position * half_ + i] = std::sin(angle);
    }
  }
}

void Rope::apply(MutableMatrixView x, std::size_t first, Executor& executor) const {
  parallel_ranges(x.rows, 6 * x.rows * x.cols, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t m = begin; m < end; ++m) {
      const float* c = &cos_[(first + m) * half_];
      const float* s = &sin_[(first + m) * half_];
      for (float* head = x.row(m); head != x.row(m) + x.cols; head += 2 * half_) {
        for (std::size_t i = 0; i < half_; ++i) {
          const float low = head[i];
          const float high = head[i + half_];
          head[i] = low * c[i] - high * s[i];
          head[i + half_] = high * c[i] + low * s[i];
        }
      }
    }
  });
}

}  // namespace llama
