#include "kernels/core.h"

#include <string>

#include "kernels/cpu.h"

namespace nybble::kernels {

const char* describe(CoreKind kind) {
  switch (kind) {
    case CoreKind::any:
      return "of no known kind: the last target in the list does everything";
    case CoreKind::one_dot:
      return "one 512-bit integer dot a cycle";
    case CoreKind::two_dots:
      return "two 512-bit integer dots a cycle";
    case CoreKind::slow_bf16:
      return "two 512-bit integer dots a cycle, bf16 dots at half the speed of f32";
  }
  return "?";
}

CoreKind core_kind(std::string_view vendor, unsigned family, unsigned model) {
  if (vendor == "GenuineIntel") {
    if (family != 6) return CoreKind::slow_bf16;  // newer: server cores' ports, so far
    switch (model) {
      case 0x55:  // Skylake to Cooper Lake servers
      case 0x6A:
      case 0x6C:  // Ice Lake servers
        return CoreKind::two_dots;
      case 0x8F:  // Sapphire Rapids
      case 0xAD:
      case 0xAE:  // Granite Rapids
      case 0xCF:  // Emerald Rapids
        return CoreKind::slow_bf16;
      case 0x7D:
      case 0x7E:  // Ice Lake
      case 0x8C:
      case 0x8D:  // Tiger Lake
      case 0xA7:  // Rocket Lake: 512-bit dots on port 0 only
        return CoreKind::one_dot;
      default:
        return CoreKind::any;
    }
  }
  if (vendor == "AuthenticAMD") {
    if (family == 0x19) return CoreKind::one_dot;  // Zen 4
    if (family == 0x1A) return CoreKind::two_dots;
  }
  return CoreKind::any;
}

CoreKind core_kind() {
  const CpuModel& model = cpu_model();
  return core_kind(model.vendor, model.family, model.model);
}

std::span<const CoreRule> core_rules(CoreKind kind) {
#if defined(__x86_64__)
  // Measured on Emerald Rapids, 4096 x 4096, two threads, GFLOP/s of avx512vbmi and avx512vnni:
  // INT4 72 and 103 at 1 row (whose near prefetch a core with slow memory wants at 1 row, too), 634
  // and 514 at 8, 871 and 1032 at 128; groups of 128 78 and 111, 854 and 1183; even near 12 rows.
  constexpr const char* kPanels = "two dots a cycle ask for tiles of two panels";
  constexpr const char* kTiles = "few rows: one tile of up to 8";
  // There, amxfp4 on avx512bf16 and avx512vbmi: 141 and 215 at 16 rows, 166 and 261 at 128.
  constexpr const char* kFloat = "bf16 dots are slower than f32 multiply-adds here";
  static constexpr CoreRule kSlowBf16[] = {
      {Slot::gemm_a8_symmetric, 1, TargetId::avx512vnni, kPanels},
      {Slot::gemm_a8_symmetric, 2, TargetId::avx512vbmi, kTiles},
      {Slot::gemm_a8_symmetric, 12, TargetId::avx512vnni, kPanels},
      {Slot::gemm_a8_zero_point, 1, TargetId::avx512vnni, kPanels},
      {Slot::gemm_a8_zero_point, 2, TargetId::avx512vbmi, kTiles},
      {Slot::gemm_a8_zero_point, 12, TargetId::avx512vnni, kPanels},
      {Slot::gemm_a16, 4, TargetId::avx512vbmi, kFloat},
  };
  switch (kind) {
    case CoreKind::slow_bf16:
      return kSlowBf16;
    case CoreKind::two_dots:
    case CoreKind::one_dot:
    case CoreKind::any:
      break;
  }
#endif
  static_cast<void>(kind);
  return {};
}

}  // namespace nybble::kernels
