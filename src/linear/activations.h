#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/kernels.h"
#include "nybble/format/format.h"

namespace nybble {

/// What activations are turned into for a GEMM.
enum class ActivationKind : std::uint8_t {
  int8,             ///< a8
  bf16,             ///< a16
  f32,              ///< a32
  format_integers,  ///< a4 through the integer dot: codes become small integers, scales per group
  format_bf16,      ///< a4 through the bf16 dot: values exact in bf16
  format_f32,       ///< a4 otherwise
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
  /// Bytes of per-task scratch that pack() uses.
  [[nodiscard]] std::size_t scratch_bytes() const;
  /// Packs row `m` (cols values of x) of `m_total`. `scales` and `bias` may be null without scales.
  void pack(const float* x, std::size_t m, std::size_t m_total, std::byte* scratch,
            std::uint32_t* packed, float* scales, std::int32_t* bias) const;

 private:
  struct Encoded;
  Encoded encode(const float* x, std::byte* scratch) const;
  void to_integers(const float* x, std::byte* scratch, std::int8_t* q, float* scales,
                   std::int32_t* sums) const;
  void to_floats(const float* x, std::byte* scratch, float* values) const;

  const kernels::KernelTable* table_ = nullptr;
  ActivationKind kind_ = ActivationKind::f32;
  std::optional<AnyFormat> format_;
  std::size_t cols_ = 0;
  std::size_t padded_ = 0;
  std::size_t dwords_ = 0;
  std::size_t dot_group_ = 0;
  std::size_t scale_group_ = 0;
  float step_ = 1;  ///< of the weight's integer levels, folded into activation scales
  int bias_factor_ = 0;
  std::int8_t format_integers_[16] = {};
  float format_step_ = 1;
};

}  // namespace nybble
