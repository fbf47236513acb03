#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/kernels.h"
#include "nybble/format/format.h"

namespace nybble {

class Carver;

/// What activations are turned into for a GEMM.
enum class ActivationKind : std::uint8_t {
  int8,             ///< a8
  bf16,             ///< a16
  f32,              ///< a32
  format_integers,  ///< a4 through the integer dot: codes become small integers, scales per group
  format_bf16,      ///< a4 through the bf16 dot: values exact in bf16
  format_f32,       ///< a4 otherwise
};

/// Where packed activations lie: the members of kernels::GemmArgs of these names.
struct PackedActivations {
  std::uint32_t* x = nullptr;
  // Null without integer dots:
  std::int32_t* x_start = nullptr;
  float* x_magic = nullptr;
  std::int32_t* x_bias = nullptr;
  float* x_scales = nullptr;  ///< null where shifts say it all
  float* row_scales = nullptr;
};

/// Turns rows of x into what kernels::GemmArgs describes: tiles of rows, interleaved by dwords.
/// Pure: all memory is the caller's.
class ActivationPacker {
 public:
  ActivationPacker() = default;
  /// `format` only for the format_* kinds. `scale_group`: values of K per int8 scale (0: the row).
  ActivationPacker(const kernels::KernelTable& table, const kernels::PackedPanels& weight,
                   ActivationKind kind, std::size_t cols, std::optional<AnyFormat> format,
                   std::size_t scale_group);

  [[nodiscard]] std::size_t dwords() const { return dwords_; }
  [[nodiscard]] bool has_scales() const {
    return kind_ == ActivationKind::int8 || kind_ == ActivationKind::format_integers;
  }
  /// Whether groups of activations have f32 scales of their own.
  [[nodiscard]] bool has_group_scales() const { return group_scales_; }
  /// Bytes that `m` packed rows take, a multiple of 64.
  [[nodiscard]] std::size_t packed_bytes(std::size_t m) const;
  /// `m` packed rows in packed_bytes(m) bytes of 64-byte aligned memory.
  [[nodiscard]] PackedActivations place(std::byte* memory, std::size_t m) const;
  /// The product of all panels of `weight` with `m` packed rows; callers narrow the panels.
  [[nodiscard]] kernels::GemmArgs gemm_args(const kernels::PackedPanels& weight, std::size_t m,
                                            const PackedActivations& x, float* y,
                                            std::size_t y_stride) const;
  /// Bytes of per-task scratch that pack() uses.
  [[nodiscard]] std::size_t scratch_bytes() const;
  /// Packs row `m` (cols values of x) of `m_total`.
  void pack(const float* x, std::size_t m, std::size_t m_total, std::byte* scratch,
            const PackedActivations& out) const;

 private:
  PackedActivations carve(Carver& carver, std::size_t m) const;
  struct Encoded;
  Encoded encode(const float* x, std::byte* scratch) const;
  struct IntegerRow;
  void to_integers(const float* x, std::byte* scratch, const IntegerRow& row) const;
  void to_floats(const float* x, std::byte* scratch, float* values) const;
  void to_halves(const float* x, std::byte* scratch, std::uint16_t* bits) const;

  const kernels::KernelTable* table_ = nullptr;
  ActivationKind kind_ = ActivationKind::f32;
  std::optional<AnyFormat> format_;
  std::size_t cols_ = 0;
  std::size_t padded_ = 0;
  std::size_t dwords_ = 0;
  std::size_t dot_group_ = 0;
  std::size_t scale_group_ = 0;
  float output_factor_ = 1;  ///< the step of the weight's integer levels times its tensor scale
  int weight_offset_ = 0;
  std::int8_t format_integers_[16] = {};
  float format_step_ = 1;
  bool group_scales_ = false;  ///< activation groups have f32 scales, not only shifts
};

}  // namespace nybble
