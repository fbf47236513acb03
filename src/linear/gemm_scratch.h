#pragma once

#include <cstddef>

#include "kernels/kernels.h"

namespace nybble {

/// Bytes of scratch (GemmArgs::scratch) that `gemm` takes with a weight and any number of rows up
/// to `m`, whole cache lines. `x_scales`: whether activation groups have f32 scales.
std::size_t gemm_scratch_bytes(kernels::gemm_a32_fn gemm, const kernels::PackedPanels& weight,
                               bool x_scales, std::size_t m);

}  // namespace nybble
