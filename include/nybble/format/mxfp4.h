#pragma once

#include "nybble/format/block_format.h"
#include "nybble/format/fp4.h"

namespace nybble {

inline constexpr char kMxfp4Name[] = "mxfp4";

/// MXFP4 (OCP Microscaling v1.0): 32 E2M1 elements share one E8M0 scale, a power of two; 4.25 bits.
/// The default is the specification's conversion: exponent floor(log2(absmax)) - 2, ties to even,
/// values above 6 clamp. Other rules and ties are options because real checkpoints were made with
/// all of them; they are part of the spec string, so the choice travels with the data. A group with
/// Inf or NaN becomes NaN (scale byte 0xFF); an all-zero group has byte 0. Element products are
/// exact down to f32 subnormals.
using Mxfp4 = BlockFormat<E2M1Levels<kMxfp4Name>, PowerOfTwoScale>;

}  // namespace nybble
