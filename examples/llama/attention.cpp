#include "attention.h"

#include <algorithm>
#include <cmath>

#include "nybble/quantize/rtn.h"

namespace llama {
namespace {

/// A copy of x in `buffer`, through the format and back if there is one.
MatrixView cast_copy(MatrixView x, const nybble::AnyFormat& format, Buffer& buffer,
                     const char* name) {
  // Heads already run in parallel, and tasks do not nest.
  nybble::SerialExecutor serial;
  const MutableMatrixView copy = buffer.view(x.rows, x.cols);
  const nybble::QuantizedMatrix matrix =
      nybble::quantize_rtn(x, format, serial, {.tensor_name = name, .propagate_nonfinite = true});
  nybble::dequantize(matrix, copy, serial);
  return copy;
}

}  // namespace

void KvCache::store(MatrixView k, MatrixView v, std::size_t first) {
  for (std::size_t m = 0; m < k.rows; ++m) {
    for (std::size_t column = 0; column < k.cols; ++column) {
      const std::size_t head = column / head_dim_;
      const std::size_t channel = column % head_dim_;
      keys_[(head * capacity_ + first + m) * head_dim_ + channel] = k.at(m, column);
      values_[(head * head_dim_ + channel) * capacity_ + first + m] = v.at(m, column);
    }
  }
}

Attention::Attention(const Config& config, std::optional<nybble::AnyFormat> cast)
    : group_(config.heads / config.kv_heads),
      head_dim_(config.head_dim),
      cast_(std::move(cast)),
      scratch_(config.kv_heads) {}

void Attention::run(MatrixView q, const KvCache& cache, std::size_t first, MutableMatrixView out,
                    Executor& executor) {
  const std::size_t work = 4 * q.rows * (first + q.rows) * q.cols;
  parallel_ranges(scratch_.size(), work, executor, [&](std::size_t begin, std::size_t end) {
    for (std::size_t head = begin; head < end; ++head) run_head(q, cache, head, first, out);
  });
}

void Attention::run_head(MatrixView q, const KvCache& cache, std::size_t kv_head, std::size_t first,
                         MutableMatrixView out) {
  Scratch& scratch = scratch_[kv_head];
  const std::size_t length = first + q.rows;
  MatrixView keys = cache.keys(kv_head, length);
  MatrixView values = cache.values(kv_head, length);
  if (cast_) {
    keys = cast_copy(keys, *cast_, scratch.keys, "K");
    values = cast_copy(values, *cast_, scratch.values, "V");
  }
  const float scale = 1 / std::sqrt(static_cast<float>(head_dim_));
  for (std::size_t head = kv_head * group_; head < (kv_head + 1) * group_; ++head) {
    MatrixView query(q.data + head * head_dim_, q.rows, head_dim_, q.stride);
    if (cast_) query = cast_copy(query, *cast_, scratch.query, "Q");
    // Blocks of queries need not look at keys behind them; a cast wants all of P at once, because a
    // format may have one scale for the whole of it.
    const std::size_t block = cast_ ? q.rows : std::min<std::size_t>(q.rows, 32);
    for (std::size_t begin = 0; begin < q.rows; begin += block) {
      const std::size_t rows = std::min(block, q.rows - begin);
      const std::size_t seen = first + begin + rows;
      const MutableMatrixView scores = scratch.scores.view(rows, seen);
      matmul({query.row(begin), rows, head_dim_, query.stride}, {keys.data, seen, head_dim_},
             scores);
      for (std::size_t m = 0; m < rows; ++m) {
        const std::span<float> row(scores.row(m), seen);
        const std::size_t visible = first + begin + m + 1;
        for (std::size_t i = 0; i < visible; ++i) row[i] *= scale;
        softmax(row, visible);
      }
      // Its values are codes by the time their buffer is written again.
      if (cast_) cast_copy(scores, *cast_, scratch.scores, "P");
      matmul(scores, {values.data, head_dim_, seen, values.stride},
             {out.row(begin) + head * head_dim_, rows, head_dim_, out.stride});
    }
  }
}

}  // namespace llama
