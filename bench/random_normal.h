#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "nybble/executor.h"

namespace nybble {

/// rows x cols normal values around 0, the same for any number of threads.
inline std::vector<float> random_normal(std::size_t rows, std::size_t cols, float deviation,
                                        std::uint32_t seed, Executor& executor) {
  std::vector<float> out(rows * cols);
  executor.parallel_for(rows, [&](std::size_t row) {
    std::seed_seq sequence{seed, static_cast<std::uint32_t>(row)};
    std::mt19937_64 random(sequence);
    std::normal_distribution<float> normal(0, deviation);
    for (std::size_t col = 0; col < cols; ++col) out[row * cols + col] = normal(random);
  });
  return out;
}

}  // namespace nybble
