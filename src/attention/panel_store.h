#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/kernels.h"
#include "nybble/format/format.h"
#include "src/tensor/aligned_buffer.h"

namespace nybble {

/// Packed panels (kernels/kernels.h) of several matrices of one format, with room for more rows and
/// columns than are filled: codes and scales are written one by one. Memory is not touched before.
class PanelStore {
 public:
  struct Shape {
    std::size_t matrices, rows, cols;
    std::size_t dot_group;     ///< 16 or 32
    std::size_t scale_groups;  ///< per row
    std::size_t groups_per_scale;
  };

  PanelStore() = default;
  /// cols is a multiple of 32. No columns: scales only; no scale groups: codes only. Throws
  /// std::bad_alloc.
  PanelStore(const AnyFormat& format, const Shape& shape, const kernels::KernelTable& target);

  /// The first `rows` rows and `groups` dot groups of a matrix.
  [[nodiscard]] kernels::PackedPanels panels(std::size_t matrix, std::size_t rows,
                                             std::size_t groups) const;
  /// Bytes that `cols` codes and `scale_groups` scales of a row take.
  [[nodiscard]] std::size_t row_bytes(std::size_t cols, std::size_t scale_groups) const;

  /// Codes near zero for `chunks` chunks of a panel from `chunk` on.
  void clear_codes(std::size_t matrix, std::size_t panel, std::size_t chunk, std::size_t chunks);
  /// Scales of 0 for `groups` scale groups of a panel from `group` on.
  void clear_scales(std::size_t matrix, std::size_t panel, std::size_t group, std::size_t groups);
  /// Codes of a row from column `col` on; both are multiples of 8.
  void put_codes(std::size_t matrix, std::size_t row, std::size_t col,
                 std::span<const std::uint8_t> codes);
  void put_code(std::size_t matrix, std::size_t row, std::size_t col, std::uint8_t code);
  void put_scale(std::size_t matrix, std::size_t row, std::size_t group, const GroupScale& scale);

  [[nodiscard]] std::uint8_t padding() const { return padding_; }

 private:
  kernels::PackedPanels panels_{};  ///< of matrix 0
  std::size_t panel_count_ = 0;     ///< per matrix
  std::size_t scale_size_ = 0;
  std::size_t sides_ = 1;
  std::uint8_t padding_ = 0;
  AlignedBuffer codes_, scales_, zeros_;
};

}  // namespace nybble
