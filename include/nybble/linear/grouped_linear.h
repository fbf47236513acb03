#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "nybble/executor.h"
#include "nybble/linear/linear.h"
#include "nybble/matrix.h"
#include "nybble/tensor/quantized_matrix.h"

namespace nybble {

/// A route that no expert takes: dropped, or another machine's.
inline constexpr std::uint32_t kNoExpert = 0xFFFFFFFF;

/// The same linear layer of E experts (mixture of experts), run in one call: a route sends a row of
/// x to an expert, every expert's weights are read once for all of its routes, and all experts
/// share the threads by work.
///
/// R routes are given as `expert_of`: the expert of each, or kNoExpert. x has R rows, one a route,
/// or R / k: then k consecutive routes share a row. With the router's M x top_k choices, row-major,
/// gate and up projections are run() on M rows of x, the down projection is run_summed() on the
/// M * top_k rows that they became.
///
/// No routes with no rows of x and y are no work. What a move leaves behind has no experts; run()
/// then throws bad_option.
///
/// A route's result is the same as QuantizedLinear's for that expert, path and target: bit for bit
/// where QuantizedLinear's does not depend on the rest of the batch (a8, a32).
class GroupedLinear {
 public:
  /// Packs `experts` (N x K each, of one format). `bias`: E x N, or none. Throws what
  /// QuantizedLinear throws, and names the expert that differs from the first one in format
  /// (bad_option) or shape (bad_shape).
  GroupedLinear(std::span<const QuantizedMatrix> experts, const LinearOptions& options,
                Executor& executor, MatrixView bias = {});
  ~GroupedLinear();
  GroupedLinear(GroupedLinear&&) noexcept;
  GroupedLinear& operator=(GroupedLinear&&) noexcept;

  [[nodiscard]] std::size_t experts() const noexcept;  ///< E
  [[nodiscard]] std::size_t rows() const noexcept;     ///< N, outputs
  [[nodiscard]] std::size_t cols() const noexcept;     ///< K, inputs
  /// As QuantizedLinear's, of all experts.
  [[nodiscard]] std::size_t packed_bytes() const noexcept;
  /// Scratch that run needs for `routes` routes and executors of up to `concurrency` tasks;
  /// SIZE_MAX where no size_t holds it.
  [[nodiscard]] std::size_t workspace_bytes(std::size_t routes,
                                            std::size_t concurrency) const noexcept;
  /// The same for run_summed, which keeps the R x N results before their sum.
  [[nodiscard]] std::size_t summed_workspace_bytes(std::size_t routes,
                                                   std::size_t concurrency) const noexcept;

  /// y (R x N): row r = expert[expert_of[r]](x row of route r), zeros for kNoExpert. x and y
  /// share no element. Checks shapes and experts (bad_shape), grows the workspace, then computes;
  /// allocates nothing where the workspace is large enough. What the executor throws comes through;
  /// y is then unspecified, the layer as it was.
  void run(MatrixView x, std::span<const std::uint32_t> expert_of, MutableMatrixView y,
           Workspace& workspace, Executor& executor) const;
  /// y (M x N): row m = the sum, in ascending order, of weight_of[r] times route r's result over
  /// its R / M consecutive routes; kNoExpert adds nothing.
  void run_summed(MatrixView x, std::span<const std::uint32_t> expert_of,
                  std::span<const float> weight_of, MutableMatrixView y, Workspace& workspace,
                  Executor& executor) const;

  /// The name of the kernel that run() calls for an expert with m routes, e.g.
  /// "gemm_a8_symmetric_avx512vnni".
  [[nodiscard]] std::string kernel(std::size_t m = 1) const;
  /// Which kernel, target and number types were chosen, and why, in a few lines.
  [[nodiscard]] std::string explain() const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace nybble
