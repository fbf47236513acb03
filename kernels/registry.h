#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"

namespace nybble::kernels {

/// The targets of this build, in the order of targets.def.
enum class TargetId : std::uint8_t {
#define NYBBLE_TARGET_ROW(name, base, description) name,
#include "kernels/targets.def"
#undef NYBBLE_TARGET_ROW
};

/// The kernels of one target.
struct Selected {
  const KernelTable* table;
  TargetId id;
  const char* target;  ///< its name
  const char* why;     ///< who chose it
  bool forced;         ///< by name: its kernels run, whatever others would do better here
};
/// Of the target that select_target(forced) names.
Selected select(std::string_view forced = {});

const char* target_name(TargetId target);
const char* slot_name(Slot slot);

/// The target whose code `target` runs in `slot`, following inheritance; e.g. avx512bf16 runs
/// gemm_a32 of avx512vbmi.
TargetId provider(TargetId target, Slot slot);

/// A slot's kernel from so many rows of activations on.
struct GemmChoice {
  std::size_t from_rows;
  Selected selected;
};
/// The kernels for a slot and weights in dot groups of `group` by numbers of rows, ascending from
/// 1: those of the target alone if it was forced, else of whichever target is fastest on this core
/// (core.h).
std::vector<GemmChoice> choose_gemm(const Selected& selected, Slot slot, std::size_t group);

}  // namespace nybble::kernels
