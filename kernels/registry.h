#pragma once

#include <string_view>

#include "kernels/kernels.h"

namespace nybble::kernels {

/// The kernels of the target select_target(forced) names, and its name.
struct Selected {
  const KernelTable* table;
  const char* target;
  const char* why;  ///< who chose it
};
Selected select(std::string_view forced = {});

/// The name of the target whose code `target` runs in `slot`, following inheritance; e.g.
/// avx512bf16 runs gemm_a32 of avx512vnni.
std::string_view provider(std::string_view target, std::string_view slot);

}  // namespace nybble::kernels
