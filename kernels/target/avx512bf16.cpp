#if defined(__x86_64__)
#include <immintrin.h>

#include <bit>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"
#include "kernels/region.h"

NYBBLE_REGION_BEGIN(
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16")
namespace nybble::kernels::avx512bf16 {

#include "kernels/simd/avx512vnni.h"
//
#include "kernels/body/all.inl.h"
//
#include "kernels/simd/avx512bf16.h"

static void gemm_a16(const GemmArgs& args) noexcept { gemm_bf16<Bf16Numbers>(args); }

}  // namespace nybble::kernels::avx512bf16
NYBBLE_REGION_END

namespace nybble::kernels::avx512bf16 {
void register_kernels(KernelTable& table) {
  table.gemm_a16 = gemm_a16;
  table.a16_pair = 2;
}
}  // namespace nybble::kernels::avx512bf16
#endif
