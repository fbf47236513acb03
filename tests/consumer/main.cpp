// What a user's first program does: quantize, pack, run.
#include <cstdio>
#include <vector>

#include "nybble/nybble.h"

int main() {
  constexpr std::size_t kSize = 64;
  std::vector<float> weights(kSize * kSize);
  for (std::size_t i = 0; i < kSize; ++i) weights[i * kSize + i] = 1;
  std::vector<float> x(kSize, 2);
  std::vector<float> y(kSize);
  nybble::SerialExecutor serial;
  const auto threads = nybble::make_thread_executor();
  const auto matrix =
      nybble::quantize_rtn({weights.data(), kSize, kSize}, nybble::parse_format("mxfp4"), *threads);
  const nybble::QuantizedLinear linear(matrix, {}, serial);
  nybble::Workspace workspace;
  linear.run({x.data(), 1, kSize}, {y.data(), 1, kSize}, workspace, *threads);
  for (const float value : y) {
    // The identity is exact in MXFP4 and 127 * (2 / 127) is not far from 2.
    if (value < 1.999F || value > 2.001F) {
      std::printf("identity times 2 gave %g\n", static_cast<double>(value));
      return 1;
    }
  }
  std::printf("%s\n", linear.kernel().c_str());
  return 0;
}
