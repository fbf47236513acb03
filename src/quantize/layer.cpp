// A layer's way through the steps of a method.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>

#include "nybble/error.h"
#include "nybble/quantize/method.h"
#include "src/linalg/dense.h"
#include "src/quantize/flushed_groups.h"
#include "src/quantize/hessian.h"
#include "src/quantize/row_codes.h"
#include "src/transform/apply.h"

namespace nybble {

namespace {

/// As QuantizedLinear has it.
void check_activations(const AnyFormat& format) {
  if (!format.info().double_quantized) return;
  throw Error(ErrorCode::unsupported,
              fmt::format("activations: format '{}' quantizes scales across rows, expected one "
                          "without double quantization",
                          format.info().spec));
}

}  // namespace

void LayerState::expect_scalable() const {
  if (transforms.hadamard.block != 0 || !transforms.permutation.source.empty()) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: channels cannot be scaled after a rotation or a permutation, "
                            "expected awq and smoothquant first",
                            name));
  }
}

void LayerState::scale_channels(const std::vector<float>& scale) {
  expect_scalable();
  Transforms step;
  for (const float value : scale) step.channel_scale.scale.push_back(1 / value);
  calibration = std::make_shared<const Calibration>(calibration->transformed(step, *executor));
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t col = 0; col < cols; ++col) weight[row * cols + col] *= scale[col];
  }
  std::vector<float>& total = transforms.channel_scale.scale;
  if (total.empty()) total.assign(cols, 1.0F);
  for (std::size_t col = 0; col < cols; ++col) total[col] *= step.channel_scale.scale[col];
}

double LayerState::error_of(const QuantizedMatrix& matrix) const {
  std::vector<float> decoded(rows * cols);
  dequantize(matrix, {decoded.data(), rows, cols}, *executor);
  if (!activations) {
    for (std::size_t i = 0; i < decoded.size(); ++i) decoded[i] -= weight[i];
    const bool held_out = calibration->held_out_tokens() != 0;
    const MatrixView moment = held_out ? calibration->held_out_moment() : calibration->fit_moment();
    const double whole = quadratic_form(view(), moment, *executor);
    const double error = quadratic_form({decoded.data(), rows, cols}, moment, *executor);
    return whole > 0 ? error / whole : 0;
  }
  const MatrixView x = calibration->samples();
  std::vector<float> inputs(x.data, x.data + x.rows * cols);
  const MutableMatrixView quantized_inputs(inputs.data(), x.rows, cols);
  fake_quantize_rows(quantized_inputs, *activations, *executor);
  std::vector<float> y(x.rows * rows);
  const MutableMatrixView outputs(y.data(), x.rows, rows);
  linalg::multiply_transposed(x, view(), outputs, linalg::Update::assign, *executor);
  double whole = 0;
  double error = 0;
  for (const float value : y) whole += static_cast<double>(value) * static_cast<double>(value);
  linalg::multiply_transposed(quantized_inputs, {decoded.data(), rows, cols}, outputs,
                              linalg::Update::subtract, *executor);
  for (const float value : y) error += static_cast<double>(value) * static_cast<double>(value);
  return whole > 0 ? error / whole : 0;
}

double MethodStep::trial_error(const LayerState& state) const {
  throw Error(ErrorCode::bad_option,
              fmt::format("{}: '{}' does not round weights", state.name, spec()));
}

void fake_quantize_rows(MutableMatrixView x, const AnyFormat& format, Executor& executor) {
  check_activations(format);
  executor.parallel_for(x.rows, [&](std::size_t row) {
    float* values = x.row(row);
    RowCodes codes(format, 1, x.cols, tensor_scale_of(format, {values, 1, x.cols}));
    std::vector<GroupRange> ranges(codes.groups);
    round_row(values, {}, 0, codes, ranges);
    for (std::size_t i = 0; i < x.cols; ++i) values[i] = codes.value(0, i);
  });
}

QuantizedLayer quantize_layer(MatrixView weight, const AnyFormat& format, const Method& method,
                              const Calibration* calibration, Executor& executor,
                              const LayerOptions& options) {
  check_view(weight, options.name);
  std::vector<float> copy;
  copy.reserve(weight.rows * weight.cols);
  for (std::size_t row = 0; row < weight.rows; ++row) {
    copy.insert(copy.end(), weight.row(row), weight.row(row) + weight.cols);
  }
  return quantize_layer(std::move(copy), weight.rows, weight.cols, format, method, calibration,
                        executor, options);
}

QuantizedLayer quantize_layer(std::vector<float>&& weight, std::size_t rows, std::size_t cols,
                              const AnyFormat& format, const Method& method,
                              const Calibration* calibration, Executor& executor,
                              const LayerOptions& options) {
  const MatrixView view(weight.data(), rows, cols);
  check_view(view, options.name);
  if (weight.size() / cols != rows || weight.size() % cols != 0) {
    throw Error(ErrorCode::bad_shape, fmt::format("{}: {} weights, expected {} x {}", options.name,
                                                  weight.size(), rows, cols));
  }
  if (method.steps().empty()) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: a method without steps (moved from?), expected one that rounds",
                            options.name));
  }
  const auto begun = std::chrono::steady_clock::now();
  if (options.activations) check_activations(*options.activations);
  if (calibration != nullptr) {
    check_calibrated(view, *calibration, options.name);
  } else if (method.calibrated()) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: method '{}' needs calibration", options.name, method.spec()));
  }
  LayerState state{options.name,
                   format,
                   options.activations,
                   &executor,
                   rows,
                   cols,
                   std::move(weight),
                   // Not owned: it outlives this call.
                   std::shared_ptr<const Calibration>(std::shared_ptr<void>(), calibration),
                   {},
                   false,
                   std::nullopt,
                   {}};
  for (const auto& step : method.steps()) {
    step->run(state, *method.steps().back());
    const bool changes_input = step->may_change_input(options.activations.has_value()).any();
    state.transformed = state.transformed || changes_input;
  }
  double signal = 0;
  for (const float value : state.weight) {
    signal += static_cast<double>(value) * static_cast<double>(value);
  }
  refuse_flushed(MatrixRows(state.view()), format, state.quantized->tensor, signal, options.name,
                 executor);
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begun;
  return {std::move(*state.quantized), std::move(state.transforms), std::move(state.decisions),
          time.count()};
}

double output_sqnr_db(MatrixView x, MatrixView weight, const QuantizedLayer& layer,
                      const std::optional<AnyFormat>& activations, Executor& executor,
                      MatrixView original) {
  check_view(x, "inputs");
  if (original.data != nullptr && (original.rows != x.rows || original.cols != x.cols)) {
    throw Error(ErrorCode::bad_shape, fmt::format("original inputs {} x {}, expected {} x {}",
                                                  original.rows, original.cols, x.rows, x.cols));
  }
  const bool same_inputs = original.data == nullptr;
  if (same_inputs) original = x;
  check_view(weight, "weight");
  const std::size_t n = weight.rows;
  const std::size_t k = weight.cols;
  if (x.cols != k || layer.weight.rows != n || layer.weight.cols != k) {
    throw Error(
        ErrorCode::bad_shape,
        fmt::format("inputs of {} columns, weights {} x {} and quantized weights {} x {} do "
                    "not fit together",
                    x.cols, n, k, layer.weight.rows, layer.weight.cols));
  }
  std::vector<float> decoded;
  if (activations) {
    decoded.resize(n * k);
    dequantize(layer.weight, {decoded.data(), n, k}, executor);
  } else {
    decoded = effective_weight(layer, executor);
    // The error's own product: no cancellation.
    for (std::size_t row = 0; row < n && same_inputs; ++row) {
      for (std::size_t i = 0; i < k; ++i) decoded[row * k + i] -= weight.at(row, i);
    }
  }
  constexpr std::size_t kRows = 256;
  double signal = 0;
  double noise = 0;
  for (std::size_t begin = 0; begin < x.rows; begin += kRows) {
    const std::size_t m = std::min(kRows, x.rows - begin);
    const MatrixView some(x.row(begin), m, k, x.stride);
    std::vector<float> y(m * n);
    const MutableMatrixView outputs(y.data(), m, n);
    const auto sum_of_squares = [&] {
      double sum = 0;
      for (const float value : y) sum += static_cast<double>(value) * static_cast<double>(value);
      return sum;
    };
    linalg::multiply_transposed({original.row(begin), m, k, original.stride}, weight, outputs,
                                linalg::Update::assign, executor);
    signal += sum_of_squares();
    if (activations) {
      std::vector<float> inputs(m * k);
      for (std::size_t row = 0; row < m; ++row) {
        apply_input(layer.transforms, some.row(row), k, &inputs[row * k]);
      }
      fake_quantize_rows({inputs.data(), m, k}, *activations, executor);
      linalg::multiply_transposed({inputs.data(), m, k}, {decoded.data(), n, k}, outputs,
                                  linalg::Update::subtract, executor);
    } else {
      linalg::multiply_transposed(some, {decoded.data(), n, k}, outputs,
                                  same_inputs ? linalg::Update::assign : linalg::Update::subtract,
                                  executor);
    }
    noise += sum_of_squares();
  }
  if (noise == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(signal / noise);
}

std::vector<float> effective_weight(const QuantizedLayer& layer, Executor& executor) {
  const std::size_t k = layer.weight.cols;
  std::vector<float> out(layer.weight.rows * k);
  dequantize(layer.weight, {out.data(), layer.weight.rows, k}, executor);
  executor.parallel_for(layer.weight.rows, [&](std::size_t row) {
    apply_input_transposed(layer.transforms, &out[row * k], k);
  });
  return out;
}

}  // namespace nybble
