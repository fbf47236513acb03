#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/registry.h"
#include "nybble/attention/kv_cache.h"
#include "src/attention/panel_store.h"
#include "src/linear/activations.h"

namespace nybble {

constexpr std::size_t round_up(std::size_t x, std::size_t unit) {
  return (x + unit - 1) / unit * unit;
}

/// Values of K per dot group under scales of `group` values.
constexpr std::size_t dot_group(std::size_t group) {
  return group % kernels::kChunk == 0 ? kernels::kChunk : 16;
}

/// Below so many multiplications, waking threads costs more than they save.
inline constexpr std::size_t kWorthThreads = std::size_t{1} << 18;

/// What a KvCache is: filled by kv_cache.cpp, read by attend.cpp.
struct KvCache::Data {
  KvCacheOptions options;
  std::size_t heads, head_dim, capacity;
  std::size_t size = 0;
  std::size_t key_group, value_group;  ///< values per scale
  std::size_t unit = 0;                ///< tokens that become codes together; 0: one at a time
  kernels::Selected target;
  ActivationKind kind = ActivationKind::int8;
  PanelStore keys;          ///< per head: tokens x head_dim
  PanelStore values;        ///< per head: head_dim x tokens
  PanelStore token_scales;  ///< of values in groups along head_dim, per head: tokens x head_dim
  std::vector<float> tail;  ///< per head: unit x head_dim, the tokens past the last whole unit
  std::vector<float> key_offset;  ///< heads x head_dim

  /// What encoding one head needs; heads run at the same time.
  struct EncodeScratch {
    std::vector<float> key;
    std::vector<float> column;
    std::vector<std::uint8_t> codes;
    std::vector<GroupRange> ranges;
    std::vector<ScaleChoice> choices;
  };
  std::vector<EncodeScratch> encode_scratch;

  Data(std::size_t kv_heads, std::size_t dim, std::size_t room, KvCacheOptions cache_options);

  /// Groups along head_dim that values of a token have.
  [[nodiscard]] std::size_t value_slices() const {
    return (head_dim + value_group - 1) / value_group;
  }
  [[nodiscard]] std::size_t value_panels() const {
    return (head_dim + kernels::kPanelRows - 1) / kernels::kPanelRows;
  }
  /// Tokens whose values are codes.
  [[nodiscard]] std::size_t coded() const { return unit == 0 ? size : size / unit * unit; }

  void append_key(std::size_t head, const float* k, std::size_t token);
  void append_value(std::size_t head, const float* v, std::size_t token);
  void encode_unit(std::size_t head, std::size_t first);

  [[nodiscard]] std::size_t product_bytes(const kernels::PackedPanels& panels, std::size_t cols,
                                          std::size_t rows) const;
  template <class Row>
  void product(const kernels::PackedPanels& panels, std::size_t panel_begin, std::size_t panel_end,
               std::size_t cols, std::size_t rows, const Row& x, float* y, std::size_t y_stride,
               std::byte* scratch) const;

  /// A block of consecutive positions of attend().
  struct Block {
    MatrixView q;
    MutableMatrixView out;
    float scale;
    std::size_t shared;   ///< query heads per kv head
    std::size_t first;    ///< position of its first row
    std::size_t visible;  ///< tokens that its last row sees
    std::size_t rows;     ///< q.rows * shared: row r is position r / shared, head r % shared
    std::size_t stride;   ///< of scores
    float* scores;        ///< [kv head][rows][stride], then weights
    float* sums;          ///< [kv head][rows]
    float* results;       ///< [kv head][rows][result_stride]
    std::size_t result_stride;
    std::byte* tasks;
    std::size_t task_bytes;
  };
  [[nodiscard]] Block lay_out(std::size_t rows, std::size_t tasks, std::byte* memory,
                              std::size_t* bytes) const;
  void run(const Block& block, std::size_t concurrency, Executor& executor) const;
  void score(const Block& block, std::size_t head, std::size_t panel_begin, std::size_t panel_end,
             std::byte* scratch) const;
  void weigh(const Block& block, std::size_t row) const;
  void combine_tokens(const Block& block, std::size_t head, std::size_t panel_begin,
                      std::size_t panel_end, std::byte* scratch) const;
  void combine_slice(const Block& block, std::size_t head, std::size_t slice,
                     std::byte* scratch) const;
  void finish(const Block& block, std::size_t head, std::size_t begin, std::size_t end) const;
  [[nodiscard]] kernels::PackedPanels unscaled_values(std::size_t head, std::size_t tokens,
                                                      int side) const;
};

}  // namespace nybble
