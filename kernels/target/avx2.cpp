#if defined(__x86_64__)
#include <immintrin.h>

#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/kernels.h"
#include "kernels/region.h"

NYBBLE_REGION_BEGIN("avx2,fma,f16c")
namespace nybble::kernels::avx2 {

#include "kernels/simd/avx2.h"
//
#include "kernels/body/all.inl.h"

}  // namespace nybble::kernels::avx2
NYBBLE_REGION_END

namespace nybble::kernels::avx2 {

// Outside the region: every CPU registers every target.
#include "kernels/body/register.inl.h"

void register_kernels(KernelTable& table) { register_all(table); }

}  // namespace nybble::kernels::avx2
#endif
