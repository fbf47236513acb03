#pragma once

#include <cstddef>
#include <cstdint>

#include "nybble/quantize/method.h"

namespace nybble {

/// Rotates a layer by a block Hadamard transform with random signs (QuaRot, arXiv 2404.00456).
/// block: as Hadamard::block; 0 = the largest up to 4096. Throws bad_option.
void rotate(LayerState& state, std::size_t block, std::uint64_t seed);

}  // namespace nybble
