#pragma once

#include <span>

#include "nybble/format/format.h"
#include "nybble/matrix.h"
#include "nybble/tensor/quantized_matrix.h"

namespace nybble::test {

/// Round to nearest, one value after another through the format's own functions, on one thread and
/// with no kernels: what quantize_rtn must give, to the byte. Groups with Inf or NaN become NaN.
QuantizedMatrix naive_quantize(MatrixView weight, const AnyFormat& format);

/// The squared errors of one group under one scale, as kernels/kernels.h defines them: f32, 16
/// interleaved partial sums added pairwise, elements > 0 apart from all others.
struct GroupError {
  float positive = 0;
  float negative = 0;
};
GroupError naive_group_error(const EncodeTable& table, std::span<const float> x,
                             const ScaleChoice& choice, float tensor_scale);

}  // namespace nybble::test
