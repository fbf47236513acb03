// The shortest way through nybble: quantize a weight matrix to 4 bits, multiply with it and see
// what it cost.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <vector>

#include "nybble/nybble.h"

int main() {
  constexpr std::size_t kOutputs = 512;
  constexpr std::size_t kInputs = 1024;
  constexpr std::size_t kTokens = 4;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto random_values = [&](std::size_t count, float deviation) {
    std::vector<float> values(count);
    for (float& value : values) value = deviation * normal(random);
    return values;
  };
  const std::vector<float> weights = random_values(kOutputs * kInputs, 0.02F);
  const std::vector<float> inputs = random_values(kTokens * kInputs, 1.0F);
  std::vector<float> outputs(kTokens * kOutputs);

  // Quantize, once: INT4, groups of 32 with an f16 scale each.
  const auto threads = nybble::make_thread_executor();
  const nybble::QuantizedMatrix quantized = nybble::quantize_rtn(
      {weights.data(), kOutputs, kInputs}, nybble::parse_format("int4"), *threads);

  // Pack for this CPU, once, and run: y = x W^T, by default with int8 activations.
  const nybble::QuantizedLinear linear(quantized, {}, *threads);
  nybble::Workspace workspace;
  linear.run({inputs.data(), kTokens, kInputs}, {outputs.data(), kTokens, kOutputs}, workspace,
             *threads);

  // The same in f32.
  double error = 0;
  double signal = 0;
  for (std::size_t token = 0; token < kTokens; ++token) {
    for (std::size_t output = 0; output < kOutputs; ++output) {
      double exact = 0;
      for (std::size_t k = 0; k < kInputs; ++k) {
        exact += static_cast<double>(inputs[token * kInputs + k]) * weights[output * kInputs + k];
      }
      error += std::pow(outputs[token * kOutputs + output] - exact, 2);
      signal += exact * exact;
    }
  }
  const double relative = std::sqrt(error / signal);
  std::printf("%s", linear.explain().c_str());
  std::printf("%.2f bits a weight, %zu KiB packed instead of %zu KiB in f32\n",
              quantized.bits_per_element(), linear.packed_bytes() / 1024,
              weights.size() * sizeof(float) / 1024);
  std::printf("relative error of the outputs %.4f\n", relative);
  // 4 bits on normal weights cost about a tenth; int8 activations hardly anything.
  return relative < 0.12 ? 0 : 1;
}
