#if defined(__x86_64__)
#include <immintrin.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/kernels.h"
#include "kernels/region.h"

NYBBLE_REGION_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
namespace nybble::kernels::avx512vnni {

#include "kernels/simd/avx512.h"
//
#include "kernels/simd/avx512vnni.h"
//
#include "kernels/body/all.inl.h"
//
#include "kernels/body/gemm_a8_split.inl.h"
//
#include "kernels/body/gemm_a8_panels.inl.h"

static void gemm_a8_split_panels(const GemmArgs& args) noexcept {
  if (args.weight->one_table) return gemm_a8_panels<SplitDecoder>(args);
  gemm_a8_sign_split(args);
}

}  // namespace nybble::kernels::avx512vnni
NYBBLE_REGION_END

namespace nybble::kernels::avx512vnni {

// Outside the region: every CPU registers every target.
#include "kernels/body/register.inl.h"

void register_kernels(KernelTable& table) {
  register_all(table);
  table.gemm_a8_symmetric = gemm_a8_panels<SymmetricDecoder>;
  table.gemm_a8_zero_point = gemm_a8_panels<ZeroPointDecoder>;
  table.gemm_a8_sign_split = gemm_a8_split_panels;
  table.zero_point_offset = 15;
  table.split_offset = kSplitOffset;
}

}  // namespace nybble::kernels::avx512vnni
#endif
