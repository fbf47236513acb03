#pragma once

#include <cmath>

#include "nybble/format/format.h"

namespace nybble {

/// A format whose tensor scale is always the reciprocal of an f32, which is what files that hold
/// 1 / scale can say. All else is as in the format it is made of.
class DivisorFormat {
 public:
  explicit DivisorFormat(AnyFormat inner) : inner_(std::move(inner)) {}

  [[nodiscard]] const FormatInfo& info() const { return inner_.info(); }
  [[nodiscard]] const EncodeTable& encode_table() const { return inner_.encode_table(); }
  [[nodiscard]] TensorScale tensor_scale(float amax) const {
    TensorScale out = inner_.tensor_scale(amax);
    const float divisor = 1 / out.scale;
    if (!std::isfinite(divisor) || !std::isfinite(1 / divisor)) return out;
    out.scale = 1 / divisor;
    out.divisor = divisor;
    return out;
  }
  [[nodiscard]] ScaleChoice choose(GroupRange range, TensorScale tensor, float shrink) const {
    return inner_.choose(range, tensor, shrink);
  }
  [[nodiscard]] int candidate_count() const { return inner_.candidate_count(); }
  [[nodiscard]] ScaleChoice candidate(GroupRange range, TensorScale tensor, int index) const {
    return inner_.candidate(range, tensor, index);
  }
  [[nodiscard]] float decode(std::uint8_t code, const GroupScale& scale, TensorScale tensor) const {
    return inner_.decode(code, scale, tensor);
  }

 private:
  AnyFormat inner_;
};

}  // namespace nybble
