#include "kernels/core.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string>

#include "kernels/cpu.h"
#include "nybble/error.h"

namespace nybble::kernels {

namespace {

struct KindRow {
  CoreKind kind;
  const char* name;
  const char* text;
};
constexpr KindRow kKinds[] = {
    {CoreKind::any, "any", "nothing known that decides between kernels"},
    {CoreKind::one_dot, "one_dot", "one 512-bit integer dot a cycle"},
    {CoreKind::two_dots, "two_dots", "two 512-bit integer dots a cycle"},
    {CoreKind::slow_bf16, "slow_bf16",
     "two 512-bit integer dots a cycle, bf16 dots at half the speed of f32"},
};

const KindRow& row_of(CoreKind kind) { return *std::ranges::find(kKinds, kind, &KindRow::kind); }

}  // namespace

const char* core_kind_name(CoreKind kind) { return row_of(kind).name; }
const char* describe(CoreKind kind) { return row_of(kind).text; }

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
    if (family == 0x1A) {                          // Zen 5; those for notebooks have 256-bit units
      const bool notebook = (model >= 0x20 && model <= 0x3F) || (model >= 0x60 && model <= 0x6F);
      return notebook ? CoreKind::one_dot : CoreKind::two_dots;
    }
  }
  return CoreKind::any;
}

CoreKind core_kind() {
  const char* environment = std::getenv("NYBBLE_CORE");
  if (environment != nullptr && *environment != '\0') {
    std::string names;
    for (const KindRow& row : kKinds) {
      if (std::string_view(row.name) == environment) return row.kind;
      names += (names.empty() ? "" : ", ") + std::string(row.name);
    }
    throw Error(ErrorCode::bad_option,
                fmt::format("NYBBLE_CORE: unknown core '{}', expected one of "
                            "{}",
                            environment, names));
  }
  const CpuModel& model = cpu_model();
  return core_kind(model.vendor, model.family, model.model);
}

std::span<const CoreRule> core_rules(CoreKind kind) {
#if defined(__x86_64__)
  constexpr std::size_t kAny = std::numeric_limits<std::size_t>::max();
  constexpr const char* kPrefetch = "one row: near prefetch alone";
  constexpr const char* kTiles = "few rows: one tile of one panel";
  constexpr const char* kPanels = "two dots a cycle want tiles of two panels";
  constexpr const char* kFloat = "bf16 dots are slower than f32 multiply-adds here";
  constexpr TargetId kVnni = TargetId::avx512vnni;
  constexpr TargetId kVbmi = TargetId::avx512vbmi;
  // Measured on Zen 5, 4096 x 4096, one thread, speed of avx512vnni over avx512vbmi: 1 row 1.05 to
  // 1.2; 8 rows .62 to .75; groups of 16 1.19 at 10 rows and 1.34 at 128; of 32 1.10 at 12, 1.08 at
  // 16, 1.29 at 128; of 128 .91 at 16, .99 at 32, 1.16 at 128; zero points 1.10 at 10, 1.35 at 128;
  // sign split .70 to .82 up to 16 rows, .98 at 32, 1.19 at 128.
  static constexpr CoreRule kTwoDots[] = {
      {Slot::gemm_a8_symmetric, 1, 16, 1, kVnni, kPrefetch},
      {Slot::gemm_a8_symmetric, 1, 16, 2, kVbmi, kTiles},
      {Slot::gemm_a8_symmetric, 1, 16, 10, kVnni, kPanels},
      {Slot::gemm_a8_symmetric, 17, 32, 1, kVnni, kPrefetch},
      {Slot::gemm_a8_symmetric, 17, 32, 2, kVbmi, kTiles},
      {Slot::gemm_a8_symmetric, 17, 32, 12, kVnni, kPanels},
      {Slot::gemm_a8_symmetric, 33, kAny, 1, kVnni, kPrefetch},
      {Slot::gemm_a8_symmetric, 33, kAny, 2, kVbmi, kTiles},
      {Slot::gemm_a8_symmetric, 33, kAny, 32, kVnni, kPanels},
      {Slot::gemm_a8_zero_point, 1, 32, 1, kVnni, kPrefetch},
      {Slot::gemm_a8_zero_point, 1, 32, 2, kVbmi, kTiles},
      {Slot::gemm_a8_zero_point, 1, 32, 10, kVnni, kPanels},
      {Slot::gemm_a8_zero_point, 33, kAny, 1, kVnni, kPrefetch},
      {Slot::gemm_a8_zero_point, 33, kAny, 2, kVbmi, kTiles},
      {Slot::gemm_a8_zero_point, 33, kAny, 32, kVnni, kPanels},
      {Slot::gemm_a8_sign_split, 1, kAny, 1, kVbmi, kTiles},
      {Slot::gemm_a8_sign_split, 1, kAny, 32, kVnni, kPanels},
  };
  // Measured on Emerald Rapids, two threads, GFLOP/s of avx512vbmi and avx512vnni: groups of 32 72
  // and 103 at 1 row, 634 and 514 at 8, even near 12, 871 and 1032 at 128; groups of 128 78 and 111
  // at 1, 854 and 1183 at 128. Of avx512bf16 and avx512vbmi, amxfp4 on a16: 141 and 215 at 16 rows,
  // 166 and 261 at 128. The borders for zero points and sign split are Zen 5's, that of a16 is
  // where these figures put it: decoding to f32 costs as much as 4 rows, and f32 at 1 row waits for
  // its own sums.
  static constexpr CoreRule kSlowBf16[] = {
      {Slot::gemm_a8_symmetric, 1, kAny, 1, kVnni, kPrefetch},
      {Slot::gemm_a8_symmetric, 1, kAny, 2, kVbmi, kTiles},
      {Slot::gemm_a8_symmetric, 1, kAny, 12, kVnni, kPanels},
      {Slot::gemm_a8_zero_point, 1, kAny, 1, kVnni, kPrefetch},
      {Slot::gemm_a8_zero_point, 1, kAny, 2, kVbmi, kTiles},
      {Slot::gemm_a8_zero_point, 1, kAny, 12, kVnni, kPanels},
      {Slot::gemm_a8_sign_split, 1, kAny, 1, kVbmi, kTiles},
      {Slot::gemm_a8_sign_split, 1, kAny, 32, kVnni, kPanels},
      {Slot::gemm_a16, 1, kAny, 4, kVbmi, kFloat},
  };
  if (kind == CoreKind::two_dots) return kTwoDots;
  if (kind == CoreKind::slow_bf16) return kSlowBf16;
#endif
  static_cast<void>(kind);
  return {};
}

}  // namespace nybble::kernels
