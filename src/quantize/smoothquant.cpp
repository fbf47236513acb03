#include "nybble/quantize/smoothquant.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "nybble/error.h"
#include "nybble/quantize/method.h"
#include "src/linalg/dense.h"
#include "src/quantize/channel_search.h"
#include "src/quantize/hessian.h"

namespace nybble {

std::vector<float> smoothquant_scale(std::span<const float> max_abs_input,
                                     std::span<const float> max_abs_weight, double alpha) {
  std::vector<float> out;
  for (std::size_t i = 0; i < max_abs_input.size(); ++i) {
    const auto weight = static_cast<double>(std::max(max_abs_weight[i], 1e-5F));
    const double value =
        std::pow(static_cast<double>(max_abs_input[i]), alpha) / std::pow(weight, 1 - alpha);
    out.push_back(static_cast<float>(std::max(value, 1e-5)));
  }
  return out;
}

SmoothQuantResult search_smoothquant_scale(MatrixView weight, const AnyFormat& format,
                                           const Calibration& calibration, Executor& executor,
                                           const SmoothQuantOptions& options) {
  check_calibrated(weight, calibration, options.tensor_name);
  if (options.alpha && !(*options.alpha >= 0 && *options.alpha <= 1)) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: alpha {}, expected 0 to 1", options.tensor_name, *options.alpha));
  }
  const MatrixView x = calibration.samples();
  if (x.rows == 0) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: the calibration kept no sample of the inputs, expected some",
                            options.tensor_name));
  }
  const std::size_t k = weight.cols;
  const std::vector<float> rows = spread_rows(weight, options.rows);
  const MatrixView some(rows.data(), rows.size() / k, k);
  const std::vector<float> max_abs_weight = column_max_abs(weight);
  const std::vector<float> max_abs_input = calibration.max_abs();
  std::vector<float> y(x.rows * some.rows);
  const MutableMatrixView outputs(y.data(), x.rows, some.rows);
  linalg::multiply_transposed(x, some, outputs, linalg::Update::assign, executor);
  double whole = 0;
  for (const float value : y) whole += static_cast<double>(value) * static_cast<double>(value);

  const auto error_of = [&](std::span<const float> scale) {
    // Divided again, so that outputs are those of the inputs as they come.
    const std::vector<float> w = round_scaled(some, format, scale, {}, executor);
    std::vector<float> inputs(x.data, x.data + x.rows * k);
    if (options.activations) {
      const auto scaled = [&](bool back) {
        for (std::size_t row = 0; row < x.rows && !scale.empty(); ++row) {
          for (std::size_t i = 0; i < k; ++i) {
            float& value = inputs[row * k + i];
            value = back ? value * scale[i] : value / scale[i];
          }
        }
      };
      scaled(false);
      fake_quantize_rows({inputs.data(), x.rows, k}, *options.activations, executor);
      scaled(true);
    }
    std::vector<float> difference(y);
    linalg::multiply_transposed({inputs.data(), x.rows, k}, {w.data(), some.rows, k},
                                {difference.data(), x.rows, some.rows}, linalg::Update::subtract,
                                executor);
    double error = 0;
    for (const float value : difference) {
      error += static_cast<double>(value) * static_cast<double>(value);
    }
    return whole > 0 ? error / whole : 0;
  };

  SmoothQuantResult best;
  best.error_before = error_of({});
  best.error = std::numeric_limits<double>::infinity();
  const auto offer = [&](double alpha) {
    std::vector<float> scale = smoothquant_scale(max_abs_input, max_abs_weight, alpha);
    const double error = error_of(scale);
    if (error < best.error) best = {std::move(scale), alpha, best.error_before, error};
  };
  if (options.alpha) {
    offer(*options.alpha);
  } else {
    for (int i = 0; i <= 20; ++i) offer(i / 20.0);
    // Where smoothing does not help, none.
    if (best.error >= best.error_before) {
      best = {std::vector<float>(k, 1.0F), 0, best.error_before, best.error_before};
    }
  }
  return best;
}

}  // namespace nybble
