#include "src/quantize/rotation.h"

#include <fmt/format.h>

#include <memory>
#include <random>

#include "nybble/error.h"
#include "src/transform/apply.h"
#include "src/transform/hadamard.h"

namespace nybble {

void rotate(LayerState& state, std::size_t block, std::uint64_t seed) {
  constexpr std::size_t kLargest = 4096;
  const std::size_t k = state.cols;
  if (block == 0) block = largest_hadamard(k, kLargest);
  if (block < 2 || !has_hadamard(block) || k % block != 0) {
    throw Error(
        ErrorCode::bad_option,
        fmt::format("{}: hadamard block {}, expected the order of a Hadamard matrix (a power "
                    "of two, or one times 12, 20, 28, ...) that divides {}",
                    state.name, block, k));
  }
  if (state.transforms.hadamard.block != 0) {
    throw Error(ErrorCode::bad_option, fmt::format("{}: rotated twice", state.name));
  }
  Transforms step;
  step.hadamard.block = block;
  // One bit of the generator each: the same signs wherever it runs.
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < k; ++i) {
    step.hadamard.signs.push_back((random() >> 63) != 0 ? -1.0F : 1.0F);
  }
  state.executor->parallel_for(state.rows, [&](std::size_t row) {
    float* values = &state.weight[row * k];
    const std::vector<float> before(values, values + k);
    // Orthonormal: (T x) (T w) = x w.
    apply_input(step, before.data(), k, values);
  });
  if (state.calibration != nullptr) {
    state.calibration =
        std::make_shared<const Calibration>(state.calibration->transformed(step, *state.executor));
  }
  state.transforms.hadamard = std::move(step.hadamard);
}

}  // namespace nybble
