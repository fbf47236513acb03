#pragma once

#include <cstddef>

#include "nybble/transform/transform.h"

namespace nybble {

/// out = T(x): channel scale, permutation, Hadamard; `cols` values each.
void apply_input(const Transforms& transforms, const float* x, std::size_t cols, float* out);

/// w = w T in place, w being a row of K weights for T(x): then x w^T is what T(x) w^T was.
void apply_input_transposed(const Transforms& transforms, float* w, std::size_t cols);

/// y += (x A) B + x S + bias for one row; `projected` has room for the low rank.
void add_side_branches(const Transforms& transforms, const float* x, std::size_t rows,
                       std::size_t cols, float* projected, float* y);

}  // namespace nybble
