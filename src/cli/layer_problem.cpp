#include "layer_problem.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <limits>

#include "nybble/error.h"
#include "nybble/io/npy.h"

namespace nybble::cli {

Matrix read_matrix(const std::string& path) {
  try {
    const NpyArray array = read_npy(path);
    if (array.shape.size() != 2 || array.count() == 0) {
      throw Error(ErrorCode::bad_shape,
                  fmt::format("{}: shape [{}], expected two axes and no empty one", path,
                              fmt::join(array.shape, ", ")));
    }
    Matrix out{array.shape[0], array.shape[1], array.as_f32()};
    for (std::size_t i = 0; i < out.values.size(); ++i) {
      if (std::isfinite(out.values[i])) continue;
      throw Error(ErrorCode::bad_value,
                  fmt::format("{}: {} at [{}, {}], expected finite values", path, out.values[i],
                              i / out.cols, i % out.cols));
    }
    return out;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    throw Error(ErrorCode::bad_file, fmt::format("{}: {}", path, error.what()));
  }
}

std::optional<AnyFormat> parse_activations(const std::string& spec) {
  if (spec.empty()) return std::nullopt;
  AnyFormat format = parse_format(spec);
  if (format.info().double_quantized) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--activations {}: rows come one by one, expected a format without "
                            "double quantization",
                            spec));
  }
  return format;
}

void check_calibration(const Method& method, const std::string& calibration) {
  if (!method.calibrated() || !calibration.empty()) return;
  throw Error(ErrorCode::bad_option,
              fmt::format("--method {}: needs --calibration X.npy", method.spec()));
}

LayerProblem read_problem(const std::string& weight, const std::string& calibration,
                          const std::string& test, Executor& executor) {
  LayerProblem out{read_matrix(weight), {}, {}, {}};
  const auto read_inputs = [&](const std::string& path) {
    Matrix inputs = read_matrix(path);
    if (inputs.cols != out.weight.cols) {
      throw Error(ErrorCode::bad_shape, fmt::format("{}: {} columns, expected the {} of {}", path,
                                                    inputs.cols, out.weight.cols, weight));
    }
    return inputs;
  };
  if (!calibration.empty()) {
    out.calibration_inputs = read_inputs(calibration);
    out.calibration.emplace(out.weight.cols);
    out.calibration->add(out.calibration_inputs->view(), executor, calibration);
  }
  if (!test.empty()) out.test_inputs = read_inputs(test);
  return out;
}

LayerScore score(const LayerProblem& problem, const QuantizedLayer& layer,
                 const std::optional<AnyFormat>& activations, Executor& executor) {
  LayerScore out;
  out.bits_per_weight = layer.weight.bits_per_element();
  out.seconds = layer.seconds;
  const std::vector<float> effective = effective_weight(layer, executor);
  double signal = 0;
  double noise = 0;
  for (std::size_t i = 0; i < effective.size(); ++i) {
    const auto value = static_cast<double>(problem.weight.values[i]);
    const double error = value - static_cast<double>(effective[i]);
    signal += value * value;
    noise += error * error;
  }
  out.weight_sqnr_db =
      noise == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(signal / noise);
  const auto sqnr = [&](const std::optional<Matrix>& inputs) {
    std::optional<double> db;
    if (inputs) {
      db = output_sqnr_db(inputs->view(), problem.weight.view(), layer, activations, executor);
    }
    return db;
  };
  out.sqnr_calibration_db = sqnr(problem.calibration_inputs);
  out.sqnr_test_db = sqnr(problem.test_inputs);
  return out;
}

}  // namespace nybble::cli
