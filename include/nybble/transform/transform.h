#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nybble {

/// x_j * scale_j before quantization: the activation side of SmoothQuant and AWQ, whose weights
/// were divided by the same numbers.
struct ChannelScale {
  std::vector<float> scale;  ///< K
};

/// x'_j = x_{source[j]}: activation reordering (act-order, outlier channels last).
struct Permutation {
  std::vector<std::uint32_t> source;  ///< K, each index once
};

/// x times an orthonormal Hadamard matrix, block by block along K (QuaRot and its kin), after
/// random signs. Blocks are powers of two (Walsh-Hadamard), or a power of two times 12, 20, 28,
/// ...: the Kronecker product with a Paley matrix, for layers such as 14336 = 28 * 512.
struct Hadamard {
  std::size_t block = 0;     ///< divides K; 0 = none
  std::vector<float> signs;  ///< K values of +-1, or empty
};

/// (x A) B, rank R: what quantization lost, kept in f32 (LoRC, SVDQuant).
struct LowRank {
  std::size_t rank = 0;
  std::vector<float> a;  ///< [R][K], K contiguous
  std::vector<float> b;  ///< [N][R], R contiguous
};

/// x S with S sparse, compressed by output row (SpQR, SqueezeLLM, LLM.int8).
struct SparseOutliers {
  std::vector<std::uint32_t> row_start;  ///< N + 1
  std::vector<std::uint32_t> column;     ///< per entry
  std::vector<float> value;              ///< per entry
};

/// What runs around a quantized product: y = T(x) Wq' + (x A) B + x S + bias. T is the channel
/// scale, then the permutation, then the Hadamard transform; the side branches see the original x.
/// Empty parts cost nothing.
struct Transforms {
  ChannelScale channel_scale;
  Permutation permutation;
  Hadamard hadamard;
  LowRank low_rank;
  SparseOutliers sparse;
  std::vector<float> bias;  ///< N

  /// Throws bad_shape naming the part that does not fit a layer of rows x cols.
  void check(std::size_t rows, std::size_t cols) const;
  [[nodiscard]] bool changes_input() const {
    return !channel_scale.scale.empty() || !permutation.source.empty() || hadamard.block != 0;
  }
  [[nodiscard]] bool has_side_branch() const {
    return low_rank.rank != 0 || !sparse.row_start.empty() || !bias.empty();
  }
};

}  // namespace nybble
