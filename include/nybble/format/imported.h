#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "nybble/error.h"
#include "nybble/format/block_format.h"
#include "nybble/format/int4.h"
#include "nybble/format/iq4_nl.h"

namespace nybble {

/// A format that only holds weights other tools quantized: they can be decoded, run and written
/// again, but their scales are a search of those tools that is not repeated here.
struct ImportedFormat {
  const char* name;
  std::array<float, 16> levels;
  bool offsets;             ///< FormatInfo's
  std::size_t super_block;  ///< FormatInfo's
};

/// value = level * scale + offset, an f16 scale and an f16 offset per 32 (ggml's block_q4_1).
inline constexpr ImportedFormat kQ41 = {"q4_1", Uint4Levels::kLevels, true, 0};
/// The same with scales and offsets of 6 bits times an f16 of each per 8 groups (block_q4_K).
inline constexpr ImportedFormat kQ4K = {"q4_k", Uint4Levels::kLevels, true, 8};
/// level * scale with IQ4_NL's levels, signed scales of 6 bits times an f16 per 8 groups
/// (block_iq4_xs).
inline constexpr ImportedFormat kIq4Xs = {"iq4_xs", Iq4NlLevels::kLevels, false, 8};

template <const ImportedFormat& Kind>
struct ImportedLevels {
  static constexpr const char* kName = Kind.name;
  static constexpr std::array<float, 16> kLevels = Kind.levels;
};

/// Chooses nothing: what every quantizer asks, throws unsupported.
template <const ImportedFormat& Kind>
struct ImportedScale : PlainRule {
  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::symmetric; }
  [[nodiscard]] static ScaleType scale_type() { return ScaleType::f16; }
  [[nodiscard]] static ScaleChoice choose(GroupRange /*range*/, TensorScale /*tensor*/,
                                          float /*peak*/) {
    throw Error(ErrorCode::unsupported,
                std::string("format '") + Kind.name +
                    "' holds imported weights, it cannot be quantized to; expected another, " +
                    (Kind.offsets ? "int4:zero_point=true" : "iq4_nl") + " say");
  }
  [[nodiscard]] static ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                             int /*index*/) {
    return choose(range, tensor, peak);
  }
  /// In ggml's order of operations.
  [[nodiscard]] static float decode(float level, const GroupScale& scale, TensorScale /*tensor*/) {
    return level * scale.positive + scale.offset;
  }
};

template <const ImportedFormat& Kind>
BlockFormat<ImportedLevels<Kind>, ImportedScale<Kind>> imported_format() {
  BlockFormat<ImportedLevels<Kind>, ImportedScale<Kind>> format(Kind.name, 32, LevelTies::even, {});
  format.info().offsets = Kind.offsets;
  format.info().super_block = Kind.super_block;
  format.info().imported = true;
  return format;
}

}  // namespace nybble
