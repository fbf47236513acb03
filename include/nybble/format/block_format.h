#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "nybble/error.h"
#include "nybble/format/element.h"
#include "nybble/format/format.h"
#include "nybble/format/scale.h"

namespace nybble {

/// A format from its two ideas: a codebook of 16 levels and a scale rule over groups of K.
///
///   struct Apot { static constexpr const char* kName = "apot";
///                 static constexpr std::array<float, 16> kLevels = {...}; };
///   BlockFormat<Apot, AbsmaxScale> format("apot", 32, LevelTies::even,
///   AbsmaxScale(ScaleType::f16));
///
/// is a complete format: see examples/custom_format.cpp.
template <Codebook C, ScaleRule R>
class BlockFormat {
 public:
  /// `spec` is the format string that makes this format again; `group` values of K share a scale
  /// (0 = the whole row; kernels need multiples of 16). Throws bad_option for a zero-point rule
  /// with other levels than 0, 1, ... 15 and for enumerations that have no such value. A rule may
  /// bring a decode() of its own for the last bits of its reference; kernels do not use it.
  BlockFormat(std::string spec, std::size_t group, LevelTies ties, R rule)
      : rule_(std::move(rule)) {
    info_.name = std::string(C::kName);
    check(rule_.scale_type() <= ScaleType::e5m2, "scale type");
    check(rule_.layout() <= ScaleLayout::sign_split, "scale layout");
    check(ties <= LevelTies::lower, "ties");
    info_.spec = std::move(spec);
    info_.levels = C::kLevels;
    info_.layout = rule_.layout();
    info_.scale_type = rule_.scale_type();
    info_.group = group;
    info_.propagates_nonfinite = info_.scale_type == ScaleType::e8m0;
    for (std::size_t i = 0; i < 16; ++i) {
      if (info_.layout == ScaleLayout::zero_point && info_.levels[i] != static_cast<float>(i)) {
        throw Error(ErrorCode::bad_option,
                    info_.name + ": zero points need the levels 0, 1, ... 15");
      }
    }
    table_ = make_encode_table(C::kLevels, ties, info_.layout, rule_.reciprocal());
  }

  [[nodiscard]] const FormatInfo& info() const { return info_; }
  /// For factories that set what the two ideas do not determine (tensor_scale, ...).
  [[nodiscard]] FormatInfo& info() { return info_; }
  [[nodiscard]] const EncodeTable& encode_table() const { return table_; }

  [[nodiscard]] TensorScale tensor_scale(float amax) const {
    return rule_.tensor_scale(amax, peak_level<C>());
  }
  [[nodiscard]] ScaleChoice choose(GroupRange range, TensorScale tensor, float shrink) const {
    if (shrink != 1) range = {range.max * shrink, range.min * shrink};
    return rule_.choose(range, tensor, peak_level<C>());
  }
  [[nodiscard]] int candidate_count() const { return rule_.candidate_count(); }
  [[nodiscard]] ScaleChoice candidate(GroupRange range, TensorScale tensor, int index) const {
    return rule_.candidate(range, tensor, peak_level<C>(), index);
  }
  [[nodiscard]] float decode(std::uint8_t code, const GroupScale& scale, TensorScale tensor) const {
    const float level = C::kLevels[code];
    if constexpr (requires { rule_.decode(level, scale, tensor); }) {
      return rule_.decode(level, scale, tensor);
    } else {
      const float by = std::signbit(level) ? scale.negative : scale.positive;
      return (level - scale.zero) * (by * tensor.scale);
    }
  }

 private:
  void check(bool known, const char* what) const {
    if (!known) throw Error(ErrorCode::bad_option, info_.name + ": " + what + " that is none");
  }

  R rule_;
  FormatInfo info_;
  EncodeTable table_;
};

}  // namespace nybble
