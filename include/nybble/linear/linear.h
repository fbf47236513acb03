#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "nybble/executor.h"
#include "nybble/format/format.h"
#include "nybble/matrix.h"
#include "nybble/tensor/quantized_matrix.h"
#include "nybble/transform/transform.h"

namespace nybble {

/// What activations become before they meet the weights (design: "Compute paths").
enum class Path {
  a8,   ///< int8: one f32 scale a row, times a power of two a group of K
  a16,  ///< bf16
  a32,  ///< f32: weight-only quantization as papers mean it
  a4,   ///< a 4-bit format, quantized on the fly: W4A4
};

/// "a8", "a16", "a32" or "a4". Throws bad_option.
Path parse_path(std::string_view name);
const char* path_name(Path path);

struct LinearOptions {
  Path path = Path::a8;
  /// Only for a4: what activations are quantized to. Default: the weight's own format.
  std::optional<AnyFormat> activations = std::nullopt;
  /// Only for a8: one activation scale for the whole row, no powers of two per group of K.
  bool scale_per_row = false;
  /// A kernel target by name ("scalar", "avx2", ...). Empty: NYBBLE_TARGET, else for each number of
  /// rows what is fastest on this core.
  std::string target = {};
};

/// Scratch memory of QuantizedLinear::run: grown on demand, reused between calls, one per thread
/// that calls run at the same time. In it is what would be too much for a thread's stack: run(),
/// and the same of GroupedLinear and KvCache, take at most 16 KB of stack, on the calling thread
/// and on those of the executor (optimised builds).
class Workspace {
 public:
  Workspace();
  ~Workspace();
  Workspace(Workspace&&) noexcept;
  Workspace& operator=(Workspace&&) noexcept;
  /// At least `bytes`, 64-byte aligned. Throws std::bad_alloc.
  void reserve(std::size_t bytes);
  [[nodiscard]] std::size_t size() const noexcept;
  [[nodiscard]] std::byte* data() noexcept;

 private:
  struct Buffer;
  std::unique_ptr<Buffer> buffer_;
};

/// A linear layer with 4-bit weights, packed for this CPU: y = T(x) Wq' + (x A) B + x S + bias.
class QuantizedLinear {
 public:
  /// Packs `weight` (N x K) for the chosen path and target. Throws unsupported (a target the CPU
  /// lacks, a group the kernels cannot take, double-quantized activations), bad_option (unknown
  /// target, options that do not go with the path), bad_shape (a matrix or transform that does not
  /// fit).
  QuantizedLinear(const QuantizedMatrix& weight, const LinearOptions& options, Executor& executor,
                  Transforms transforms = {});
  ~QuantizedLinear();
  QuantizedLinear(QuantizedLinear&&) noexcept;
  QuantizedLinear& operator=(QuantizedLinear&&) noexcept;

  // What a move leaves behind has 0 rows and columns; run() and the texts below throw bad_option.
  [[nodiscard]] std::size_t rows() const noexcept;  ///< N, outputs
  [[nodiscard]] std::size_t cols() const noexcept;  ///< K, inputs
  /// Bytes of packed codes, scales, zero points and offsets, in whole pages where they are many:
  /// what the layer takes of memory.
  [[nodiscard]] std::size_t packed_bytes() const noexcept;
  /// Scratch that run needs for up to `m` rows of x and executors of up to `concurrency` tasks;
  /// SIZE_MAX, which reserve refuses, where no size_t holds it.
  [[nodiscard]] std::size_t workspace_bytes(std::size_t m, std::size_t concurrency) const noexcept;

  /// y (M x N) = layer(x), x is M x K; M may be 0. They may be columns of one buffer, but share no
  /// element. Checks shapes (bad_shape), grows the workspace, then computes. a8 and a32 results do
  /// not depend on the executor; a8 is the same bit for bit on every target, but for sign-split
  /// weights with E5M2 or E8M0 scales (amxfp4), whose smaller side AVX-512 targets round to int8:
  /// at most 1/96 of a group's largest value. Where weight scales times integer dots leave f32, the
  /// result is Inf or NaN. What the executor throws comes through; y is then unspecified, the layer
  /// as it was.
  void run(MatrixView x, MutableMatrixView y, Workspace& workspace, Executor& executor) const;
  /// The same without checks: shapes must fit and the workspace hold workspace_bytes(M, 1) at
  /// least; tasks are as many as it has room for. An executor that throws ends the process.
  void run_unchecked(MatrixView x, MutableMatrixView y, Workspace& workspace,
                     Executor& executor) const noexcept;

  /// The name of the kernel that run() calls for m rows of x, e.g. "gemm_a8_symmetric_avx512vnni".
  [[nodiscard]] std::string kernel(std::size_t m = 1) const;
  /// Which kernel, target and number types were chosen, and why, in a few lines.
  [[nodiscard]] std::string explain() const;

 private:
  struct Plan;
  void compute(MatrixView x, MutableMatrixView y, Workspace& workspace, Executor& executor) const;
  std::unique_ptr<Plan> plan_;
};

}  // namespace nybble
