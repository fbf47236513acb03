#pragma once

#include <cstddef>
#include <vector>

#include "nybble/executor.h"
#include "nybble/matrix.h"

namespace nybble::peers {

/// The layer that everybody computes: weights N(0, 0.02), activations N(0, 1) with every hundredth
/// channel 20 times larger, as language models have them.
class Problem {
 public:
  Problem(std::size_t n, std::size_t k, std::size_t max_m, Executor& executor);

  [[nodiscard]] MatrixView weights() const { return {weights_.data(), n_, k_}; }
  [[nodiscard]] MatrixView input(std::size_t m) const { return {x_.data(), m, k_}; }
  /// ||y - reference|| / ||reference|| over up to 8 rows x 256 columns of the M x N values `y`, the
  /// reference in f64 from weights and activations as they were before any quantization.
  [[nodiscard]] double relative_error(const std::vector<float>& y) const;

 private:
  std::size_t n_, k_;
  std::vector<float> weights_, x_;
  std::vector<std::size_t> sampled_outputs_;
  std::size_t sampled_inputs_;
  std::vector<double> reference_;  ///< sampled inputs x sampled outputs
};

}  // namespace nybble::peers
