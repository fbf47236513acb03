#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "config.h"
#include "model.h"

namespace llama {

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers from a seed on every machine, which the
/// distributions of <random> do not promise.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  /// Uniform in [0, 1), a multiple of 2^-53.
  double uniform();

 private:
  std::uint64_t state_;
};

/// A token drawn from softmax(logits / temperature); temperature 0 takes the most likely one.
Token sample(std::span<const float> logits, double temperature, Random& random);

/// `count` tokens of the model's own text in windows of `window` that each start anew. Windows are
/// not shortened: the result is whole windows, at least one.
std::vector<Token> sample_windows(const Model& model, std::size_t count, std::size_t window,
                                  std::uint64_t seed, Executor& executor);

}  // namespace llama
