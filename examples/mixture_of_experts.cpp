// The feed-forward layers of a mixture of experts: every token's best experts in two calls, with no
// copy of rows and no loop over experts.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "nybble/nybble.h"

namespace {

constexpr std::size_t kExperts = 8;
constexpr std::size_t kTop = 2;
constexpr std::size_t kHidden = 256;
constexpr std::size_t kInner = 512;
constexpr std::size_t kTokens = 6;

/// The kTop largest of each token's router scores, and their softmax.
void choose_experts(const std::vector<float>& scores, std::vector<std::uint32_t>& expert_of,
                    std::vector<float>& weight_of) {
  std::vector<std::uint32_t> order(kExperts);
  for (std::size_t token = 0; token < kTokens; ++token) {
    const float* score = &scores[token * kExperts];
    std::iota(order.begin(), order.end(), 0U);
    std::partial_sort(order.begin(), order.begin() + kTop, order.end(),
                      [&](std::uint32_t a, std::uint32_t b) { return score[a] > score[b]; });
    float sum = 0;
    for (std::size_t j = 0; j < kTop; ++j) sum += std::exp(score[order[j]] - score[order[0]]);
    for (std::size_t j = 0; j < kTop; ++j) {
      expert_of.push_back(order[j]);
      weight_of.push_back(std::exp(score[order[j]] - score[order[0]]) / sum);
    }
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto random_values = [&](std::size_t count, float deviation) {
    std::vector<float> values(count);
    for (float& value : values) value = deviation * normal(random);
    return values;
  };
  const auto threads = nybble::make_thread_executor();
  const auto random_experts = [&](std::size_t outputs, std::size_t inputs) {
    std::vector<nybble::QuantizedMatrix> experts;
    for (std::size_t e = 0; e < kExperts; ++e) {
      const std::vector<float> values = random_values(outputs * inputs, 0.05F);
      experts.push_back(nybble::quantize_rtn({values.data(), outputs, inputs},
                                             nybble::parse_format("mxfp4"), *threads));
    }
    return experts;
  };

  // Pack all experts, once.
  const std::vector<float> up_bias = random_values(kExperts * kInner, 0.1F);
  const nybble::GroupedLinear up(random_experts(kInner, kHidden), {}, *threads,
                                 {up_bias.data(), kExperts, kInner});
  const nybble::GroupedLinear down(random_experts(kHidden, kInner), {}, *threads);

  // The router's choice: kTop routes a token, one after the other.
  std::vector<std::uint32_t> expert_of;
  std::vector<float> weight_of;
  choose_experts(random_values(kTokens * kExperts, 1.0F), expert_of, weight_of);

  // Up: the routes of a token share its row of x. One result a route.
  const std::vector<float> x = random_values(kTokens * kHidden, 1.0F);
  std::vector<float> inner(expert_of.size() * kInner);
  nybble::Workspace workspace;
  up.run({x.data(), kTokens, kHidden}, expert_of, {inner.data(), expert_of.size(), kInner},
         workspace, *threads);

  for (float& value : inner) value /= 1 + std::exp(-value);  // SiLU

  // Down: every route has its own row; the weighted sum is one result a token.
  std::vector<float> y(kTokens * kHidden);
  down.run_summed({inner.data(), expert_of.size(), kInner}, expert_of, weight_of,
                  {y.data(), kTokens, kHidden}, workspace, *threads);

  std::printf("%s", up.explain().c_str());
  for (std::size_t token = 0; token < kTokens; ++token) {
    std::printf("token %zu:", token);
    for (std::size_t r = token * kTop; r < (token + 1) * kTop; ++r) {
      std::printf("  %.2f of expert %u", static_cast<double>(weight_of[r]), expert_of[r]);
    }
    const float* row = &y[token * kHidden];
    const float square = std::inner_product(row, row + kHidden, row, 0.0F);
    std::printf(", |y| = %.2f\n", static_cast<double>(std::sqrt(square)));
    if (!std::isfinite(square) || square == 0) return 1;
  }
  return 0;
}
