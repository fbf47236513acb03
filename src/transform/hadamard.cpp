#include "src/transform/hadamard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace nybble {

namespace {

constexpr std::size_t kMostPaley = 512;

bool is_prime(std::size_t n) {
  if (n < 2) return false;
  for (std::size_t i = 2; i * i <= n; ++i) {
    if (n % i == 0) return false;
  }
  return true;
}

/// The prime q whose Paley construction has this order, and which of the two; 0 = none.
struct Paley {
  std::size_t q = 0;
  bool second = false;
};

Paley paley_of(std::size_t order) {
  if (order < 4 || order > kMostPaley || order % 4 != 0) return {};
  if (is_prime(order - 1)) return {order - 1, false};  // order = 0 mod 4, so q = 3 mod 4
  const std::size_t q = order / 2 - 1;
  if (q % 4 == 1 && is_prime(q)) return {q, true};
  return {};
}

/// order = outer * 2^p with outer 1 or the smallest Paley order that is left; 0 if there is none.
std::size_t outer_order(std::size_t order) {
  if (order == 0) return 0;
  const std::size_t odd = order >> std::countr_zero(order);
  if (odd == 1) return 1;
  for (std::size_t outer = odd; outer <= order && outer <= kMostPaley; outer *= 2) {
    if (paley_of(outer).q != 0) return outer;
  }
  return 0;
}

/// Entry (i, j) of a Paley matrix: from the quadratic character of j - i.
class PaleyMatrix {
 public:
  explicit PaleyMatrix(Paley paley) : paley_(paley) {
    character_.fill(-1);
    character_[0] = 0;
    for (std::size_t i = 1; i < paley.q; ++i) character_[i * i % paley.q] = 1;
  }
  [[nodiscard]] int at(std::size_t i, std::size_t j) const {
    // I + S with S skew: rows are orthogonal because S S^T = q I.
    if (!paley_.second) return i == j ? 1 : conference(i, j, -1);
    // C x [1 1; 1 -1] + I x [1 -1; -1 -1] with C symmetric.
    const int c = conference(i / 2, j / 2, 1);
    if (c == 0) return i % 2 == 0 && j % 2 == 0 ? 1 : -1;
    return i % 2 == 1 && j % 2 == 1 ? -c : c;
  }

 private:
  /// Order q + 1, zero diagonal; the first column has the sign `column`.
  [[nodiscard]] int conference(std::size_t i, std::size_t j, int column) const {
    if (i == j) return 0;
    if (i == 0) return 1;
    if (j == 0) return column;
    return character_[(j + paley_.q - i) % paley_.q];
  }

  Paley paley_;
  std::array<std::int8_t, kMostPaley> character_{};
};

/// In place, unnormalised: log2(n) passes of butterflies.
void walsh_hadamard(float* x, std::size_t n) {
  for (std::size_t half = 1; half < n; half *= 2) {
    for (std::size_t begin = 0; begin < n; begin += 2 * half) {
      for (std::size_t i = begin; i < begin + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
}

/// x as outer rows of `inner`: each column times the Paley matrix.
void mix_rows(float* x, std::size_t outer, std::size_t inner, bool transposed) {
  const PaleyMatrix matrix(paley_of(outer));
  constexpr std::size_t kMostColumns = 16;  // at a time
  std::array<float, 2560> mixed;            // stacks are small
  const std::size_t columns = std::min(kMostColumns, mixed.size() / outer);
  for (std::size_t begin = 0; begin < inner; begin += columns) {
    const std::size_t count = std::min(columns, inner - begin);
    for (std::size_t i = 0; i < outer; ++i) {
      float sums[kMostColumns] = {};
      for (std::size_t j = 0; j < outer; ++j) {
        const auto sign = static_cast<float>(transposed ? matrix.at(j, i) : matrix.at(i, j));
        for (std::size_t c = 0; c < count; ++c) sums[c] += sign * x[j * inner + begin + c];
      }
      std::copy_n(sums, count, &mixed[i * columns]);
    }
    for (std::size_t i = 0; i < outer; ++i) {
      std::copy_n(&mixed[i * columns], count, x + i * inner + begin);
    }
  }
}

}  // namespace

bool has_hadamard(std::size_t order) { return outer_order(order) != 0; }

std::size_t largest_hadamard(std::size_t size, std::size_t most) {
  for (std::size_t order = std::min(size, most); order > 1; --order) {
    if (size % order == 0 && has_hadamard(order)) return order;
  }
  return 1;
}

void hadamard(float* x, std::size_t order, bool transposed) {
  const std::size_t outer = outer_order(order);
  const std::size_t inner = order / outer;
  for (std::size_t row = 0; row < outer; ++row) walsh_hadamard(x + row * inner, inner);
  if (outer != 1) mix_rows(x, outer, inner, transposed);
  const float norm = 1 / std::sqrt(static_cast<float>(order));
  for (std::size_t i = 0; i < order; ++i) x[i] *= norm;
}

}  // namespace nybble
