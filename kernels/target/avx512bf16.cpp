#if defined(__x86_64__)
#include <immintrin.h>

#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/kernels.h"
#include "kernels/region.h"

NYBBLE_REGION_BEGIN(
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16")
namespace nybble::kernels::avx512bf16 {

#include "kernels/simd/avx512.h"
//
#include "kernels/simd/avx512vbmi.h"
//
#include "kernels/body/all.inl.h"
//
#include "kernels/simd/avx512bf16.h"
//
#include "kernels/body/gemm_bf16_direct.inl.h"

static void gemm_a16_dots(const GemmArgs& args) noexcept {
  switch (args.weight->layout) {
    case ScaleLayout::symmetric:
      return gemm_bf16_direct<ScaleLayout::symmetric>(args);
    case ScaleLayout::sign_split:
      if (args.weight->one_table) return gemm_bf16_one_table(args);
      // Measured on Zen 4, 4096 x 4096, two threads: even at 12 rows.
      if (args.m <= 12) return gemm_bf16_direct<ScaleLayout::sign_split>(args);
      break;
    case ScaleLayout::zero_point:
      break;
  }
  gemm_float<Bf16Numbers>(args);
}

}  // namespace nybble::kernels::avx512bf16
NYBBLE_REGION_END

namespace nybble::kernels::avx512bf16 {
void register_kernels(KernelTable& table) {
  table.gemm_a16 = gemm_a16_dots;
  table.a16_pair = 2;
}
}  // namespace nybble::kernels::avx512bf16
#endif
