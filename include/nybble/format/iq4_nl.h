#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include "nybble/format/block_format.h"

namespace nybble {

/// IQ4_NL's codebook (ggml, kvalues_iq4nl): 16 integers, denser around zero, none of which is zero:
/// a zero becomes 1, so a group of zeros needs a scale of 0.
struct Iq4NlLevels {
  static constexpr const char* kName = "iq4_nl";
  static constexpr std::array<float, 16> kLevels = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                    1,    13,   25,  38,  53,  69,  89,  113};
};

/// Where ggml's search begins: the group's value of largest magnitude becomes -127, so that the
/// scale has the opposite sign.
struct Iq4NlScale : PlainRule {
  [[nodiscard]] static ScaleLayout layout() { return ScaleLayout::symmetric; }
  [[nodiscard]] static ScaleType scale_type() { return ScaleType::f16; }
  [[nodiscard]] static ScaleChoice choose(GroupRange range, TensorScale /*tensor*/, float peak) {
    const float magnitude = round_scale(ScaleType::f16, absmax(range) / peak);
    return symmetric_choice(range.max >= -range.min && magnitude != 0 ? -magnitude : magnitude);
  }
  [[nodiscard]] static ScaleChoice candidate(GroupRange range, TensorScale tensor, float peak,
                                             int /*index*/) {
    return choose(range, tensor, peak);
  }
};

/// IQ4_NL of ggml: 32 values of a fixed codebook share one f16 scale; 4.5 bits.
using Iq4Nl = BlockFormat<Iq4NlLevels, Iq4NlScale>;

}  // namespace nybble
