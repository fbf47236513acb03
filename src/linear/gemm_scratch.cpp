#include "src/linear/gemm_scratch.h"

#include <algorithm>

#include "src/tensor/aligned_buffer.h"

namespace nybble {

std::size_t gemm_scratch_bytes(kernels::gemm_a32_fn gemm, const kernels::PackedPanels& weight,
                               bool x_scales, std::size_t m) {
  const float any_scale = 0;
  std::size_t bytes = 0;
  std::size_t most = 0;
  kernels::GemmArgs args{};
  args.weight = &weight;
  args.x_scales = x_scales ? &any_scale : nullptr;
  args.scratch_bytes = &bytes;
  // Kernels for few rows can take more than those for many.
  m = std::min(m, kernels::kMostRowsAtOnce);
  for (args.m = 1; args.m <= m; ++args.m) {
    gemm(args);
    most = std::max(most, bytes);
  }
  return round_to_cache_line(most);
}

}  // namespace nybble
