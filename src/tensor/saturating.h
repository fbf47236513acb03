#pragma once

#include <cstddef>
#include <cstdint>

namespace nybble {

/// Sums and products of sizes that stay at SIZE_MAX, which no memory has, where they would wrap.
constexpr std::size_t saturating_add(std::size_t a, std::size_t b) {
  return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}
constexpr std::size_t saturating_multiply(std::size_t a, std::size_t b) {
  return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

}  // namespace nybble
