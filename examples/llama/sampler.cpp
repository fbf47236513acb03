#include "sampler.h"

#include <algorithm>
#include <cmath>

#include "progress.h"

namespace llama {

double Random::uniform() {
  state_ += 0x9E3779B97F4A7C15U;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

Token sample(std::span<const float> logits, double temperature, Random& random) {
  const auto largest = std::max_element(logits.begin(), logits.end());
  if (temperature == 0) return static_cast<Token>(largest - logits.begin());
  std::vector<double> cumulative;
  cumulative.reserve(logits.size());
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp((static_cast<double>(logit) - static_cast<double>(*largest)) / temperature);
    cumulative.push_back(sum);
  }
  const auto chosen =
      std::upper_bound(cumulative.begin(), cumulative.end(), random.uniform() * sum);
  const auto last = static_cast<std::ptrdiff_t>(logits.size()) - 1;
  return static_cast<Token>(std::min(chosen - cumulative.begin(), last));
}

std::vector<Token> sample_windows(const Model& model, std::size_t count, std::size_t window,
                                  std::uint64_t seed, Executor& executor) {
  const std::size_t windows = std::max<std::size_t>(count / window, 1);
  Session session(model, window, executor);
  Random random(seed);
  Progress progress("sampling", windows);
  std::vector<Token> tokens;
  tokens.reserve(windows * window);
  for (std::size_t w = 0; w < windows; ++w) {
    session.reset();
    tokens.push_back(model.config().first_token());
    for (std::size_t i = 1; i < window; ++i) {
      const MatrixView logits = session.forward({&tokens.back(), 1}, Session::Logits::last);
      tokens.push_back(sample({logits.data, logits.cols}, 1.0, random));
    }
    progress.advance();
  }
  return tokens;
}

}  // namespace llama
