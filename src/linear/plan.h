#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "kernels/registry.h"
#include "nybble/executor.h"
#include "nybble/format/format.h"
#include "nybble/linear/linear.h"
#include "nybble/matrix.h"
#include "nybble/tensor/packed_matrix.h"
#include "nybble/tensor/quantized_matrix.h"
#include "src/linear/activations.h"
#include "src/linear/gemm_scratch.h"

namespace nybble {

/// A GEMM of the kernel table.
struct GemmSlot {
  kernels::Slot slot;
  kernels::gemm_a32_fn function;
};
/// The one for activations of a kind and weights of a layout.
GemmSlot gemm_slot(const kernels::KernelTable& table, ActivationKind kind, ScaleLayout layout);
/// The name of a target's kernel in a slot, e.g. "gemm_a8_symmetric_avx512vnni".
std::string kernel_name(const kernels::Selected& target, kernels::Slot slot);

/// How a packed matrix is multiplied with so many rows or more.
struct PlannedGemm {
  std::size_t from_rows;
  std::string kernel;  ///< its name
  const char* why;     ///< why this target's
  kernels::gemm_a32_fn function;
  kernels::PackedPanels panels;  ///< the matrix as this kernel wants it
  ActivationPacker packer;       ///< what turns activations into this kernel's

  /// GemmArgs::scratch for up to m rows.
  [[nodiscard]] std::size_t scratch_bytes(std::size_t m) const {
    return gemm_scratch_bytes(function, panels, packer.has_group_scales(), m);
  }
};

/// Weights in the order the kernels read them, and the kernels.
struct PlannedWeight {
  PackedMatrix matrix;
  std::vector<PlannedGemm> gemms;  ///< ascending in rows, from 1

  [[nodiscard]] const PlannedGemm& for_rows(std::size_t m) const {
    std::size_t i = gemms.size() - 1;
    while (i > 0 && gemms[i].from_rows > m) --i;
    return gemms[i];
  }
  /// Calls visit(rows) with the most rows up to m that each kernel gets.
  template <class Visit>
  void for_each_kernel(std::size_t m, Visit visit) const {
    for (std::size_t i = 0; i < gemms.size() && gemms[i].from_rows <= m; ++i) {
      visit(i + 1 == gemms.size() ? m : std::min(m, gemms[i + 1].from_rows - 1));
    }
  }
  /// Packs activations into no fewer bytes than the others.
  [[nodiscard]] const ActivationPacker& largest_packer() const {
    const auto dwords = [](const PlannedGemm& gemm) { return gemm.packer.dwords(); };
    return std::ranges::max_element(gemms, {}, dwords)->packer;
  }
};

/// What LinearOptions come to for weights of one format: kernel, target, number types.
struct LinearPlan {
  LinearOptions options;
  FormatInfo weight_info;
  kernels::Selected target;
  ActivationKind kind = ActivationKind::int8;
  std::string reason;  ///< why this kind

  /// Throws bad_option (options that do not go together, an unknown target) and unsupported (a
  /// target the CPU lacks, double-quantized activations).
  LinearPlan(const AnyFormat& weight, const LinearOptions& linear_options);

  /// Packs a matrix of the plan's format. Throws unsupported and bad_shape.
  [[nodiscard]] PlannedWeight pack(const QuantizedMatrix& matrix, Executor& executor) const;
  /// QuantizedLinear::explain.
  [[nodiscard]] std::string explain(const PlannedWeight& weight) const;

 private:
  void choose_kind(const AnyFormat& weight);
};

}  // namespace nybble
