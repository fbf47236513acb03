#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "config.h"
#include "nybble/format/format.h"
#include "ops.h"

namespace llama {

/// The keys and values of one block for all positions seen so far, in f32. In 4 bits they are a
/// nybble::KvCache, which computes attention itself.
class KvCache {
 public:
  KvCache(const Config& config, std::size_t capacity)
      : head_dim_(config.head_dim),
        capacity_(capacity),
        keys_(config.kv_heads * capacity * config.head_dim),
        values_(config.kv_heads * capacity * config.head_dim) {}

  /// Stores rows of k and v (M x kv_heads * head_dim) as positions `first` and on.
  void store(MatrixView k, MatrixView v, std::size_t first);
  /// length x head_dim.
  [[nodiscard]] MatrixView keys(std::size_t head, std::size_t length) const {
    return {&keys_[head * capacity_ * head_dim_], length, head_dim_};
  }
  /// head_dim x length: transposed, so that both products of attention and the groups of a cast run
  /// along rows.
  [[nodiscard]] MatrixView values(std::size_t head, std::size_t length) const {
    return {&values_[head * capacity_ * head_dim_], head_dim_, length, capacity_};
  }

 private:
  std::size_t head_dim_, capacity_;
  std::vector<float> keys_, values_;
};

/// Causal grouped-query attention of M new positions, the first of them `first`.
///
/// With `cast`, Q, K, the probabilities P and V go through a 4-bit format and back, as AMXFP4
/// evaluates attention: Q and K in groups along head_dim, P and V along the positions. All
/// positions that are known count: a group of V (and the tensor scale of a two-level format) of a
/// whole window is chosen with later tokens in view, which decoding one token at a time cannot do;
/// the two differ by that.
class Attention {
 public:
  Attention(const Config& config, std::optional<nybble::AnyFormat> cast);
  /// q and out are M x heads * head_dim; the cache holds positions 0 ... first + M - 1.
  void run(MatrixView q, const KvCache& cache, std::size_t first, MutableMatrixView out,
           Executor& executor);

 private:
  struct Scratch {
    Buffer query, keys, values, scores;
  };
  void run_head(MatrixView q, const KvCache& cache, std::size_t kv_head, std::size_t first,
                MutableMatrixView out);
  std::size_t group_, head_dim_;
  std::optional<nybble::AnyFormat> cast_;
  std::vector<Scratch> scratch_;  // one per KV head: they run at the same time
};

}  // namespace llama
