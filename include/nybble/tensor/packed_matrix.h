#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "nybble/executor.h"
#include "nybble/tensor/quantized_matrix.h"

namespace nybble {

namespace kernels {
struct PackedPanels;
struct KernelTable;
}  // namespace kernels

/// A QuantizedMatrix rearranged for the kernels: panels of 16 rows, nibbles and scales in the order
/// the inner loops read them (kernels/kernels.h draws the layout). The same for every target so
/// far, but a property of this library's version: never written to disk. Large matrices lie one
/// behind the other, in huge pages where the system gives them. What a move leaves behind has 0
/// rows; unpack() throws bad_option.
class PackedMatrix {
 public:
  /// Packs in parallel. `dot_group_limit` caps (by divisibility) the values of K that one integer
  /// dot group spans, for activations with scales of their own. Throws unsupported if the format's
  /// group is not a multiple of 16.
  PackedMatrix(const QuantizedMatrix& matrix, Executor& executor,
               std::size_t dot_group_limit = 256);
  ~PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;

  /// The exact inverse of packing: the same bytes as the matrix it was made from.
  [[nodiscard]] QuantizedMatrix unpack(Executor& executor) const;

  [[nodiscard]] std::size_t rows() const noexcept;
  [[nodiscard]] std::size_t cols() const noexcept;
  /// K rounded up to whole dot groups and chunks of 32.
  [[nodiscard]] std::size_t padded_cols() const noexcept;
  /// What it takes of memory: in whole pages of 4 KiB where it is large.
  [[nodiscard]] std::size_t bytes() const noexcept;
  [[nodiscard]] const kernels::PackedPanels& panels() const noexcept;
  /// The same with the offset of weights that a target's integer dots want.
  [[nodiscard]] kernels::PackedPanels panels_for(const kernels::KernelTable& target) const noexcept;

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace nybble
