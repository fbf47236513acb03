// H^-1 = U^T U with one factorisation and one triangular inverse, instead of the two
// factorisations and a full inverse of GPTQ's reference: with J the reversal of rows, J H J = L L^T
// gives H = (J L J)(J L J)^T, J L J upper triangular, so U = J L^-1 J.

#include <algorithm>
#include <cmath>
#include <vector>

#include "src/linalg/dense.h"

namespace nybble::linalg {

namespace {

constexpr std::size_t kBlock = 128;

template <class T>
BasicMatrixView<T> part(BasicMatrixView<T> m, std::size_t row, std::size_t col, std::size_t rows,
                        std::size_t cols) {
  return {m.row(row) + col, rows, cols, m.stride};
}

/// The block's Cholesky factor over its lower triangle and that factor's inverse, in f64.
bool factor_block(MutableMatrixView block, MutableMatrixView inverse) {
  const std::size_t n = block.rows;
  std::vector<double> l(n * n);
  std::vector<double> x(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = static_cast<double>(block.at(i, j));
      for (std::size_t k = 0; k < j; ++k) sum -= l[i * n + k] * l[j * n + k];
      if (i != j) {
        l[i * n + j] = sum / l[j * n + j];
      } else if (sum > 0 && std::isfinite(sum)) {
        l[i * n + i] = std::sqrt(sum);
      } else {
        return false;
      }
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    x[i * n + i] = 1 / l[i * n + i];
    for (std::size_t k = 0; k < i; ++k) {
      const double by = l[i * n + k];
      for (std::size_t j = 0; j <= k; ++j) x[i * n + j] -= by * x[k * n + j];
    }
    for (std::size_t j = 0; j < i; ++j) x[i * n + j] *= x[i * n + i];
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      if (j <= i) block.at(i, j) = static_cast<float>(l[i * n + j]);
      inverse.at(i, j) = j <= i ? static_cast<float>(x[i * n + j]) : 0.0F;
    }
  }
  return true;
}

}  // namespace

bool invert_to_upper_factor(MutableMatrixView h, Executor& executor) {
  const std::size_t n = h.rows;
  // A unit diagonal, so that f32 is enough however different the channels are: with h = D G D, its
  // factor is that of G with columns divided by D.
  std::vector<float> root(n);
  for (std::size_t i = 0; i < n; ++i) {
    if (!(h.at(i, i) > 0)) return false;
    root[i] = std::sqrt(h.at(i, i));
  }
  // The lower triangle of J G J.
  std::vector<float> g_values(n * n);
  const MutableMatrixView g(g_values.data(), n, n);
  executor.parallel_for(n, [&](std::size_t i) {
    const std::size_t from = n - 1 - i;
    for (std::size_t j = 0; j < i; ++j) {
      const std::size_t col = n - 1 - j;  // > from: read below the diagonal
      g.at(i, j) = h.at(col, from) / root[from] / root[col];
    }
    g.at(i, i) = 1;
  });
  std::vector<float> inverse_values(n * n);
  const MutableMatrixView inverse(inverse_values.data(), n, n);
  std::vector<float> column_values(n * kBlock);
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t size = std::min(kBlock, n - begin);
    const std::size_t end = begin + size;
    const MutableMatrixView block_inverse = part(inverse, begin, begin, size, size);
    if (!factor_block(part(g, begin, begin, size, size), block_inverse)) return false;
    if (end == n) break;
    const MutableMatrixView below = part(g, end, begin, n - end, size);
    const MutableMatrixView column(column_values.data(), n - end, size);
    multiply_transposed(below, block_inverse, column, Update::assign, executor);
    for (std::size_t i = 0; i < below.rows; ++i) std::copy_n(column.row(i), size, below.row(i));
    multiply_transposed(column, column, part(g, end, end, n - end, n - end), Update::subtract,
                        executor, {.lower_only = true});
  }
  // Row block i of the inverse: -L_ii^-1 (L_i0 ... L_i,i-1) times the rows above.
  std::vector<float> row_values(kBlock * n);
  for (std::size_t begin = kBlock; begin < n; begin += kBlock) {
    const std::size_t size = std::min(kBlock, n - begin);
    const MutableMatrixView left(row_values.data(), size, begin);
    multiply(part(g, begin, 0, size, begin), part(inverse, 0, 0, begin, begin), left,
             Update::assign, executor, {.b_lower = true});
    multiply(part(inverse, begin, begin, size, size), left, part(inverse, begin, 0, size, begin),
             Update::subtract, executor);
  }
  executor.parallel_for(n, [&](std::size_t i) {
    const float* row = inverse.row(n - 1 - i);
    for (std::size_t j = 0; j < i; ++j) h.at(i, j) = 0;
    for (std::size_t j = i; j < n; ++j) h.at(i, j) = row[n - 1 - j] / root[j];
  });
  return true;
}

}  // namespace nybble::linalg
