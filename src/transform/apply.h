#pragma once

#include <cstddef>

#include "nybble/transform/transform.h"

namespace nybble {

/// out = T(x): channel scale, permutation, Hadamard; `cols` values each.
void apply_input(const Transforms& transforms, const float* x, std::size_t cols, float* out);

/// y += (x A) B + x S + bias for one row; `projected` has room for the low rank.
void add_side_branches(const Transforms& transforms, const float* x, std::size_t rows,
                       std::size_t cols, float* projected, float* y);

}  // namespace nybble
