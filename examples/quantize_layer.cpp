// Calibrated quantization: what a layer's inputs look like is gathered batch by batch, AWQ and GPTQ
// fit the 4-bit weights to it, and the result runs as any other layer.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <vector>

#include "nybble/nybble.h"
#include "nybble/quantize/method.h"

namespace {

constexpr std::size_t kOutputs = 96;
constexpr std::size_t kInputs = 256;
constexpr std::size_t kBatch = 128;

/// Inputs as in language models: neighbours are alike, and a few channels are much larger.
std::vector<float> make_batch(std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x;
  float value = 0;
  while (x.size() < kBatch * kInputs) {
    value = 0.9F * value + normal(random);
    x.push_back(x.size() % kInputs % 50 == 7 ? 20 * value : value);
  }
  return x;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> weights(kOutputs * kInputs);
  for (float& weight : weights) weight = 0.05F * normal(random);
  const auto threads = nybble::make_thread_executor();

  // Batches come and go; what stays of them does not grow.
  nybble::Calibration calibration(kInputs);
  for (int batch = 0; batch < 16; ++batch) {
    const std::vector<float> x = make_batch(random);
    calibration.add({x.data(), kBatch, kInputs}, *threads);
  }

  // Inputs that were not seen before, and what the layer makes of them in f32.
  const std::vector<float> x = make_batch(random);
  std::vector<double> exact(kBatch * kOutputs);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const float* row = &x[i / kOutputs * kInputs];
    const float* weight = &weights[i % kOutputs * kInputs];
    for (std::size_t k = 0; k < kInputs; ++k) exact[i] += static_cast<double>(row[k]) * weight[k];
  }

  nybble::Workspace workspace;
  bool good = true;
  for (const char* format : {"int4", "amxfp4"}) {
    double previous = 1;
    for (const char* method : {"rtn", "awq+gptq"}) {
      const nybble::QuantizedLayer layer =
          nybble::quantize_layer({weights.data(), kOutputs, kInputs}, nybble::parse_format(format),
                                 nybble::Method(method), &calibration, *threads);
      // Weights and transforms go together: AWQ's weights expect inputs that were divided.
      const nybble::QuantizedLinear linear(layer.weight, {.path = nybble::Path::a32}, *threads,
                                           layer.transforms);
      std::vector<float> y(exact.size());
      linear.run({x.data(), kBatch, kInputs}, {y.data(), kBatch, kOutputs}, workspace, *threads);
      double error = 0;
      double signal = 0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        error += std::pow(y[i] - exact[i], 2);
        signal += std::pow(exact[i], 2);
      }
      const double relative = std::sqrt(error / signal);
      std::printf("%-7s %-9s relative error of the outputs %.4f\n", format, method, relative);
      for (const auto& [name, value] : layer.decisions) {
        std::printf("  %s: %s\n", name.c_str(), value.c_str());
      }
      good = good && relative < previous / 2;
      previous = relative;
    }
  }
  return good ? 0 : 1;
}
