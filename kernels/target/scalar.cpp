#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/kernels.h"
#include "kernels/region.h"
#include "nybble/numeric/float16.h"

namespace nybble::kernels::scalar {

#include "kernels/simd/scalar.h"
//
#include "kernels/body/all.inl.h"
//
#include "kernels/body/register.inl.h"

void register_kernels(KernelTable& table) { register_all(table); }

}  // namespace nybble::kernels::scalar
