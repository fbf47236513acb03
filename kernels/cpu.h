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

/// What CPUID calls this CPU; empty and 0 where there is no CPUID.
struct CpuModel {
  std::string vendor;   ///< "GenuineIntel", "AuthenticAMD"
  unsigned family = 0;  ///< with the extended fields
  unsigned model = 0;
};

const CpuModel& cpu_model();

/// The processor's own name, or "unknown".
std::string cpu_name();

}  // namespace nybble::kernels
