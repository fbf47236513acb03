#include "src/linalg/dense.h"

#include <algorithm>
#include <vector>

#include "kernels/registry.h"
#include "src/concurrency.h"

namespace nybble::linalg {

namespace {

using kernels::kDenseCols;

/// Of K at a time: a packed panel of b is then 64 KiB, in L2 while all rows of a task use it.
constexpr std::size_t kDepthBlock = 256;
constexpr std::size_t kRowBlock = 192;

/// kDenseCols columns of b from `row` on, missing ones as zeros. get(row, col) reads b.
void pack(MatrixView b, bool transposed, std::size_t row, std::size_t depth, std::size_t col,
          std::size_t cols, float* out) {
  if (transposed) {
    for (std::size_t j = 0; j < kDenseCols; ++j) {
      for (std::size_t k = 0; k < depth; ++k) {
        out[k * kDenseCols + j] = j < cols ? b.at(col + j, row + k) : 0.0F;
      }
    }
    return;
  }
  for (std::size_t k = 0; k < depth; ++k) {
    std::copy_n(b.row(row + k) + col, cols, out + k * kDenseCols);
    std::fill_n(out + k * kDenseCols + cols, kDenseCols - cols, 0.0F);
  }
}

void product(MatrixView a, MatrixView b, bool transposed, MutableMatrixView c, Update update,
             Executor& executor, Shape shape) {
  const kernels::KernelTable& table = *kernels::select().table;
  const std::size_t depth = a.cols;
  const std::size_t panels = (c.cols + kDenseCols - 1) / kDenseCols;
  // Rows in so many pieces that every thread has several tasks, but packing b stays a small part.
  const std::size_t row_blocks = (c.rows + kRowBlock - 1) / kRowBlock;
  const std::size_t pieces =
      std::clamp<std::size_t>((8 * concurrency_of(executor) + panels - 1) / panels, 1, row_blocks);
  executor.parallel_for(panels * pieces, [&](std::size_t task) {
    const std::size_t col = task / pieces * kDenseCols;
    const std::size_t cols = std::min(kDenseCols, c.cols - col);
    const std::size_t piece = task % pieces;
    std::size_t begin = c.rows * piece / pieces;
    std::size_t end = c.rows * (piece + 1) / pieces;
    if (shape.lower_only) begin = std::max(begin, std::min(col, end));
    if (shape.upper_only) end = std::max(begin, std::min(col + cols, end));
    if (begin == end) return;
    if (update == Update::assign) {
      for (std::size_t i = begin; i < end; ++i) std::fill_n(c.row(i) + col, cols, 0.0F);
    }
    std::vector<float> packed(std::min(kDepthBlock, depth) * kDenseCols);
    for (std::size_t k = shape.b_lower ? std::min(col, depth) : 0; k < depth; k += kDepthBlock) {
      const std::size_t some = std::min(kDepthBlock, depth - k);
      pack(b, transposed, k, some, col, cols, packed.data());
      table.dense_update({a.row(begin) + k, a.stride, packed.data(), c.row(begin) + col, c.stride,
                          end - begin, some, cols, update == Update::subtract});
    }
  });
}

}  // namespace

void multiply(MatrixView a, MatrixView b, MutableMatrixView c, Update update, Executor& executor,
              Shape shape) {
  product(a, b, false, c, update, executor, shape);
}

void multiply_transposed(MatrixView a, MatrixView b, MutableMatrixView c, Update update,
                         Executor& executor, Shape shape) {
  product(a, b, true, c, update, executor, shape);
}

void mirror_lower(MutableMatrixView square, Executor& executor) {
  constexpr std::size_t kBlock = 32;
  const std::size_t n = square.rows;
  executor.parallel_for((n + kBlock - 1) / kBlock, [&](std::size_t block) {
    const std::size_t end = std::min(n, (block + 1) * kBlock);
    // Columns of this block of rows: reads go down them, writes along rows.
    for (std::size_t i = block * kBlock; i < end; ++i) {
      for (std::size_t j = i + 1; j < end; ++j) square.at(i, j) = square.at(j, i);
    }
    for (std::size_t from = end; from < n; from += kBlock) {
      for (std::size_t i = block * kBlock; i < end; ++i) {
        for (std::size_t j = from; j < std::min(n, from + kBlock); ++j) {
          square.at(i, j) = square.at(j, i);
        }
      }
    }
  });
}

void transpose(MatrixView in, MutableMatrixView out, Executor& executor) {
  constexpr std::size_t kBlock = 32;
  const std::size_t blocks = (in.rows + kBlock - 1) / kBlock;
  executor.parallel_for(blocks, [&](std::size_t block) {
    const std::size_t begin = block * kBlock;
    const std::size_t end = std::min(in.rows, begin + kBlock);
    for (std::size_t col = 0; col < in.cols; ++col) {
      for (std::size_t row = begin; row < end; ++row) out.at(col, row) = in.at(row, col);
    }
  });
}

}  // namespace nybble::linalg
