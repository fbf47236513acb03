#include "src/quantize/weight_rows.h"

#include <cmath>
#include <limits>

#include "kernels/registry.h"
#include "src/transform/apply.h"

namespace nybble {

std::vector<float> all_values(const WeightRows& weight, Executor& executor) {
  const std::size_t cols = weight.cols();
  std::vector<float> out(weight.rows() * cols);
  for_each_row(
      weight, executor, [] { return 0; },
      [&](std::size_t row, const float* x, int /*state*/) {
        std::copy_n(x, cols, out.data() + row * cols);
      });
  return out;
}

double SquaredError::sqnr_db() const {
  if (noise == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(signal / noise);
}

SquaredError squared_error(const kernels::KernelTable& table, const float* x, const float* decoded,
                           std::size_t count) {
  constexpr std::size_t kRun = 512;
  SquaredError out;
  for (std::size_t begin = 0; begin < count; begin += kRun) {
    float signal = 0;
    float noise = 0;
    table.squared_error(
        {x + begin, decoded + begin, std::min(kRun, count - begin), &signal, &noise});
    out += {static_cast<double>(signal), static_cast<double>(noise)};
  }
  return out;
}

SquaredError squared_error(const WeightRows& weight, const QuantizedMatrix& matrix,
                           const Transforms& transforms, Executor& executor) {
  struct Work {
    std::vector<std::uint8_t> codes;
    std::vector<ScaleChoice> choices;
    std::vector<float> decoded;
  };
  const kernels::KernelTable& table = *kernels::select().table;
  const FormatInfo& info = matrix.format.info();
  const bool transformed = transforms.changes_input();
  std::vector<SquaredError> errors(matrix.rows);
  const auto make_work = [&] {
    return Work{std::vector<std::uint8_t>(matrix.cols), std::vector<ScaleChoice>(matrix.groups),
                std::vector<float>(matrix.cols)};
  };
  for_each_row(weight, executor, make_work, [&](std::size_t row, const float* x, Work& work) {
    for (std::size_t i = 0; i < matrix.cols; ++i) work.codes[i] = matrix.code(row, i);
    for (std::size_t g = 0; g < matrix.groups; ++g) work.choices[g].scale = matrix.scale(row, g);
    table.codes_to_float({work.codes.data(), matrix.cols, matrix.group, info.levels.data(),
                          work.choices.data(), matrix.tensor.scale, work.decoded.data()});
    if (transformed) apply_input_transposed(transforms, work.decoded.data(), matrix.cols);
    errors[row] = squared_error(table, x, work.decoded.data(), matrix.cols);
  });
  SquaredError sum;
  for (const SquaredError& error : errors) sum += error;
  return sum;
}

}  // namespace nybble
