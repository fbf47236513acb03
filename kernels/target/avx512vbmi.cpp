#if defined(__x86_64__)
#include <immintrin.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/kernels.h"
#include "kernels/region.h"

NYBBLE_REGION_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")
namespace nybble::kernels::avx512vbmi {

#include "kernels/simd/avx512.h"
//
#include "kernels/simd/avx512vbmi.h"
//
#include "kernels/body/all.inl.h"
//
#include "kernels/body/gemm_a8_split.inl.h"

}  // namespace nybble::kernels::avx512vbmi
NYBBLE_REGION_END

namespace nybble::kernels::avx512vbmi {

// Outside the region: every CPU registers every target.
#include "kernels/body/register.inl.h"

void register_kernels(KernelTable& table) {
  register_all(table);
  table.gemm_a8_sign_split = gemm_a8_split;
  table.split_offset = kSplitOffset;
  table.zero_point_offset = 0;
}

}  // namespace nybble::kernels::avx512vbmi
#endif
