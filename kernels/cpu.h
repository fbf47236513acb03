#pragma once

#include <string>

namespace nybble::kernels {

/// The instruction sets that targets ask for, as this CPU and its operating system offer them.
struct CpuFeatures {
  bool avx2 = false;        ///< AVX2, FMA and F16C
  bool avx512vnni = false;  ///< F, BW, DQ, VL and VNNI
  bool avx512vbmi = false;
  bool avx512bf16 = false;
};

const CpuFeatures& cpu_features();

/// The processor's own name, or "unknown".
std::string cpu_name();

}  // namespace nybble::kernels
