#pragma once

#include <string>

#include "kernels/registry.h"
#include "nybble/executor.h"
#include "nybble/format/format.h"
#include "nybble/linear/linear.h"
#include "nybble/matrix.h"
#include "nybble/tensor/packed_matrix.h"
#include "nybble/tensor/quantized_matrix.h"
#include "src/linear/activations.h"

namespace nybble {

/// Weights in the order the kernels read them, and what packs the activations they meet.
struct PlannedWeight {
  PackedMatrix matrix;
  ActivationPacker packer;
};

/// A GEMM of the kernel table.
struct GemmSlot {
  const char* name;
  kernels::gemm_a32_fn function;
};
/// The one for activations of a kind and weights of a layout.
GemmSlot gemm_slot(const kernels::KernelTable& table, ActivationKind kind, ScaleLayout layout);
/// The name of a target's kernel in a slot, e.g. "gemm_a8_symmetric_avx512vnni".
std::string kernel_name(const kernels::Selected& target, const GemmSlot& slot);

/// What LinearOptions come to for weights of one format: kernel, target, number types.
struct LinearPlan {
  LinearOptions options;
  FormatInfo weight_info;
  kernels::Selected target;
  ActivationKind kind = ActivationKind::int8;
  std::string reason;  ///< why this kind
  GemmSlot gemm{};

  /// Throws bad_option (options that do not go together, an unknown target) and unsupported (a
  /// target the CPU lacks, double-quantized activations).
  LinearPlan(const AnyFormat& weight, const LinearOptions& linear_options);

  /// Packs a matrix of the plan's format. Throws unsupported and bad_shape.
  [[nodiscard]] PlannedWeight pack(const QuantizedMatrix& matrix, Executor& executor) const;
  [[nodiscard]] std::string kernel() const { return kernel_name(target, gemm); }
  /// QuantizedLinear::explain.
  [[nodiscard]] std::string explain(const PlannedWeight& weight) const;

 private:
  void choose_kind(const AnyFormat& weight);
};

/// Throws bad_shape if x and y, which `what` names ("linear: x and y"), share memory.
void check_separate(MatrixView x, MatrixView y, const char* what);

}  // namespace nybble
