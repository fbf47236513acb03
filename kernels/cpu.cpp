#include "kernels/cpu.h"

#include <array>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace nybble::kernels {

#if defined(__x86_64__)
namespace {

// Read directly: the compilers' __builtin_cpu_supports know different subsets of these names.
struct Leaf {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(std::uint32_t leaf, std::uint32_t subleaf = 0) {
  Leaf out;
  if (__get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx) == 0) return {};
  return out;
}

bool bit(std::uint32_t word, int index) { return ((word >> index) & 1U) != 0; }

CpuFeatures detect() {
  CpuFeatures out;
  const Leaf one = cpuid(1);
  if (!bit(one.ecx, 27)) return out;  // OSXSAVE
  std::uint32_t xcr0 = 0;
  std::uint32_t high = 0;
  __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
  const bool ymm = (xcr0 & 0x06U) == 0x06U;
  const bool zmm = (xcr0 & 0xE6U) == 0xE6U;
  const Leaf seven = cpuid(7);
  const Leaf seven_one = cpuid(7, 1);
  out.avx2 = ymm && bit(one.ecx, 28) && bit(one.ecx, 12) && bit(one.ecx, 29) && bit(seven.ebx, 5);
  out.avx512vnni = out.avx2 && zmm && bit(seven.ebx, 16) && bit(seven.ebx, 17) &&
                   bit(seven.ebx, 30) && bit(seven.ebx, 31) && bit(seven.ecx, 11);
  out.avx512vbmi = out.avx512vnni && bit(seven.ecx, 1);
  out.avx512bf16 = out.avx512vbmi && bit(seven_one.eax, 5);
  return out;
}

CpuModel detect_model() {
  const Leaf zero = cpuid(0);
  CpuModel out;
  for (const std::uint32_t word : {zero.ebx, zero.edx, zero.ecx}) {
    for (int i = 0; i < 4; ++i) out.vendor += static_cast<char>(word >> (8 * i) & 0xFFU);
  }
  const std::uint32_t one = cpuid(1).eax;
  out.family = one >> 8 & 0xFU;
  out.model = (one >> 4 & 0xFU) | (one >> 12 & 0xF0U);
  if (out.family == 0xF) out.family += one >> 20 & 0xFFU;
  return out;
}

}  // namespace

std::string cpu_name() {
  if (cpuid(0x80000000U).eax < 0x80000004U) return "unknown";
  std::array<char, 49> text{};
  for (std::uint32_t i = 0; i < 3; ++i) {
    const Leaf part = cpuid(0x80000002U + i);
    std::memcpy(&text[16 * i], &part, 16);
  }
  std::string name = text.data();
  while (!name.empty() && name.back() == ' ') name.pop_back();
  return name;
}
#else
namespace {
CpuFeatures detect() { return {}; }
CpuModel detect_model() { return {}; }
}  // namespace
std::string cpu_name() { return "unknown"; }
#endif

const CpuModel& cpu_model() {
  static const CpuModel model = detect_model();
  return model;
}

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace nybble::kernels
