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

/// What LinearOptions come to for weights of one format: kernel, target, number types.
struct LinearPlan {
  LinearOptions options;
  FormatInfo weight_info;
  kernels::Selected target;
  ActivationKind kind = ActivationKind::int8;
  std::string reason;  ///< why this kind
  std::string slot;
  kernels::gemm_a32_fn gemm = nullptr;

  /// Throws bad_option (options that do not go together, an unknown target) and unsupported (a
  /// target the CPU lacks, double-quantized activations).
  LinearPlan(const AnyFormat& weight, const LinearOptions& linear_options);

  /// Packs a matrix of the plan's format. Throws unsupported and bad_shape.
  [[nodiscard]] PlannedWeight pack(const QuantizedMatrix& matrix, Executor& executor) const;
  /// The name of `gemm`, e.g. "gemm_a8_symmetric_avx512vnni".
  [[nodiscard]] std::string kernel() const;
  /// QuantizedLinear::explain.
  [[nodiscard]] std::string explain(const PlannedWeight& weight) const;

 private:
  void choose_kind(const AnyFormat& weight);
  void choose_kernel();
};

/// Throws bad_shape if x and y, inputs and outputs of `layer`, share memory.
void check_separate(MatrixView x, MatrixView y, const char* layer);

}  // namespace nybble
