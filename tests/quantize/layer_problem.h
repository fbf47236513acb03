#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "nybble/quantize/calibration.h"
#include "tests/support/random.h"

namespace nybble::test {

/// A small layer whose inputs are as those of language models: correlated channels, a few much
/// larger than the others.
struct SmallLayer {
  std::size_t rows, cols, tokens;
  std::vector<float> weight, inputs, test_inputs;
  Calibration calibration;

  explicit SmallLayer(std::size_t row_count = 48, std::size_t col_count = 96,
                      std::size_t token_count = 512, std::uint64_t seed = 1)
      : rows(row_count),
        cols(col_count),
        tokens(token_count),
        weight(normal_values(rows * cols, seed)),
        inputs(make_inputs(token_count, seed + 1)),
        test_inputs(make_inputs(256, seed + 2)),
        calibration(col_count) {
    for (float& value : weight) value *= 0.05F;
    SerialExecutor serial;
    calibration.add(input_view(), serial);
  }
  [[nodiscard]] MatrixView view() const { return {weight.data(), rows, cols}; }
  [[nodiscard]] MatrixView input_view() const { return {inputs.data(), tokens, cols}; }
  [[nodiscard]] MatrixView test_view() const {
    return {test_inputs.data(), test_inputs.size() / cols, cols};
  }

 private:
  [[nodiscard]] std::vector<float> make_inputs(std::size_t count, std::uint64_t seed) const {
    const std::size_t rank = cols / 3 + 1;
    const std::vector<float> mixing = normal_values(rank * cols, 77);
    const std::vector<float> hidden = normal_values(count * rank, seed);
    std::vector<float> out = normal_values(count * cols, seed + 100);
    for (std::size_t t = 0; t < count; ++t) {
      for (std::size_t i = 0; i < cols; ++i) {
        float value = 0.3F * out[t * cols + i];
        for (std::size_t r = 0; r < rank; ++r) {
          value +=
              hidden[t * rank + r] * mixing[r * cols + i] / std::sqrt(static_cast<float>(rank));
        }
        out[t * cols + i] = value * (i % 29 == 5 ? 15.0F : 1.0F);
      }
    }
    return out;
  }
};

}  // namespace nybble::test
