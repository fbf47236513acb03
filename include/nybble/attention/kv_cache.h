#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "nybble/executor.h"
#include "nybble/format/format.h"
#include "nybble/linear/linear.h"
#include "nybble/matrix.h"

namespace nybble {

/// What the values that share a scale have in common.
enum class ValueGroups {
  tokens,    ///< one channel of consecutive tokens: scales stay out of the inner product
  head_dim,  ///< consecutive channels of one token, as keys have them
};

struct KvCacheOptions {
  AnyFormat keys;
  AnyFormat values;
  ValueGroups value_groups = ValueGroups::tokens;
  /// What queries and attention weights become before they meet the codes: a8, a16 or a32.
  Path path = Path::a8;
  /// A kernel target by name. Empty: NYBBLE_TARGET, else the best this CPU has.
  std::string target = {};
};

/// Keys and values of one attention layer in 4 bits, appended token by token; attention is computed
/// straight from the codes.
///
/// Keys are quantized along head_dim, a token at a time. Values in groups along head_dim are, too.
/// In groups along tokens, the newest values wait in f32 until as many tokens as a group has (at
/// least 32) are there, and then become codes for good. What is stored depends on what was appended
/// only, not on how many tokens at once.
///
/// M may be 0 throughout. What a move leaves behind holds nothing and has no room; append() and
/// attend() throw bad_option.
///
/// A format's tensor scale (nvfp4, amxfp4:tensor_scale=true) is 1: later tokens are not known when
/// the first are stored. NVFP4 then spans group maxima of 0.012 to 2688.
class KvCache {
 public:
  /// Room for `capacity` tokens of kv_heads x head_dim; memory is touched as it fills. Throws
  /// bad_shape (a size of 0, or more than memory can be), bad_option (path a4, unknown target),
  /// unsupported (double quantization; groups that are not multiples of 16; for values along
  /// tokens: one scale a row, or groups of more than 256).
  KvCache(std::size_t kv_heads, std::size_t head_dim, std::size_t capacity, KvCacheOptions options);
  ~KvCache();
  KvCache(KvCache&&) noexcept;
  KvCache& operator=(KvCache&&) noexcept;

  [[nodiscard]] std::size_t size() const noexcept;  ///< tokens
  [[nodiscard]] std::size_t capacity() const noexcept;
  [[nodiscard]] std::size_t kv_heads() const noexcept;
  [[nodiscard]] std::size_t head_dim() const noexcept;
  /// What the tokens stored take: codes, scales and values that wait in f32.
  [[nodiscard]] std::size_t bytes() const noexcept;

  /// Subtracts `offset` (kv_heads * head_dim values, 0 until this is called) from every key before
  /// it is quantized: a prompt's mean key, say. That changes all scores of a query by the same
  /// number, which softmax does not see, and takes away the large constant part that some channels
  /// of keys have and that would coarsen the scales of their groups. Throws bad_shape (a wrong
  /// size, a cache that is not empty), bad_value (Inf or NaN).
  void set_key_offset(std::span<const float> offset);
  /// Forgets all tokens; the key offset stays.
  void clear() noexcept;
  /// Appends M tokens: k and v are M x kv_heads * head_dim. Throws bad_shape (shapes, no room),
  /// bad_value (Inf or NaN) and what the executor throws; then nothing was appended. The same bytes
  /// for any executor.
  void append(MatrixView k, MatrixView v, Executor& executor);

  /// out = softmax(scale * q k', causal) v for the last M tokens: q and out are M x heads *
  /// head_dim, heads a multiple of kv_heads; consecutive heads share a kv head. Row m sees tokens 0
  /// to size - M + m. Values in groups along tokens are those of now: an earlier row meets codes
  /// that were chosen when later tokens were there. Results do not depend on the executor, and a
  /// row not on the rows beside it; a8 and a32 give the same bits on targets whose GEMMs do. An Inf
  /// or NaN in a head of a row of q, or a score that leaves f32, makes that head NaN. Throws
  /// bad_shape, bad_value (a scale that is not finite). What the executor throws comes through; out
  /// is then unspecified.
  void attend(MatrixView q, MutableMatrixView out, float scale, Workspace& workspace,
              Executor& executor) const;

  /// The names of the kernels that attend() calls for scores and for values.
  [[nodiscard]] std::string key_kernel() const;
  [[nodiscard]] std::string value_kernel() const;
  /// Formats, bits, kernels and why, in a few lines.
  [[nodiscard]] std::string explain() const;

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace nybble
