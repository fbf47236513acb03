#pragma once

#include <cstddef>

namespace nybble {

/// A Hadamard matrix (entries +-1, orthogonal rows) of this order can be made here: a power of two
/// times 1 or the order of a Paley construction over a prime field (q + 1 for q = 3 mod 4, 2 q + 2
/// for q = 1 mod 4; Paley 1933) of at most 512. So 12, 20, 28, ... times powers of two: most layer
/// sizes in use.
bool has_hadamard(std::size_t order);

/// The largest order of at most `most` that divides `size` and has a matrix.
std::size_t largest_hadamard(std::size_t size, std::size_t most);

/// x becomes H x / sqrt(order), or H^T x / sqrt(order): the inverse. In place; allocates nothing.
void hadamard(float* x, std::size_t order, bool transposed);

}  // namespace nybble
