#if defined(__x86_64__)
#include <immintrin.h>

#include <bit>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"
#include "kernels/region.h"

NYBBLE_REGION_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")
namespace nybble::kernels::avx512vnni {

#include "kernels/simd/avx512vnni.h"
//
#include "kernels/body/all.inl.h"

}  // namespace nybble::kernels::avx512vnni
NYBBLE_REGION_END

namespace nybble::kernels::avx512vnni {

// Outside the region: every CPU registers every target.
#include "kernels/body/register.inl.h"

void register_kernels(KernelTable& table) { register_all(table); }

}  // namespace nybble::kernels::avx512vnni
#endif
