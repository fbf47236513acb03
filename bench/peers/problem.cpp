#include "bench/peers/problem.h"

#include <algorithm>
#include <cmath>

#include "bench/random_normal.h"

namespace nybble::peers {

Problem::Problem(std::size_t n, std::size_t k, std::size_t max_m, Executor& executor)
    : n_(n),
      k_(k),
      weights_(random_normal(n, k, 0.02F, 2, executor)),
      x_(random_normal(max_m, k, 1, 1, executor)),
      sampled_inputs_(std::min<std::size_t>(max_m, 8)) {
  constexpr std::size_t kChannelsPerOutlier = 100;
  constexpr float kOutlier = 20;
  for (std::size_t i = 0; i < x_.size(); ++i) {
    if (i % k % kChannelsPerOutlier == kChannelsPerOutlier / 2) x_[i] *= kOutlier;
  }
  const std::size_t outputs = std::min<std::size_t>(n, 256);
  for (std::size_t i = 0; i < outputs; ++i) sampled_outputs_.push_back(n * i / outputs);
  reference_.resize(sampled_inputs_ * outputs);
  executor.parallel_for(reference_.size(), [&](std::size_t at) {
    const float* x = input(max_m).row(at / outputs);
    const float* w = weights().row(sampled_outputs_[at % outputs]);
    double sum = 0;
    for (std::size_t i = 0; i < k; ++i)
      sum += static_cast<double>(x[i]) * static_cast<double>(w[i]);
    reference_[at] = sum;
  });
}

double Problem::relative_error(const std::vector<float>& y) const {
  const std::size_t inputs = std::min(sampled_inputs_, y.size() / n_);
  double error = 0;
  double norm = 0;
  for (std::size_t m = 0; m < inputs; ++m) {
    for (std::size_t i = 0; i < sampled_outputs_.size(); ++i) {
      const double expected = reference_[m * sampled_outputs_.size() + i];
      const double difference = y[m * n_ + sampled_outputs_[i]] - expected;
      error += difference * difference;
      norm += expected * expected;
    }
  }
  return std::sqrt(error / norm);
}

}  // namespace nybble::peers
