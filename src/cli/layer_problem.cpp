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
    check_finite(out.view(), path);
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

void add_layer_files(CLI::App& command, LayerFiles& files) {
  command.add_option("--weights", files.weights, "weights, N x K, .npy")->required();
  command.add_option("--calibration", files.calibration, "inputs to fit to, tokens x K, .npy");
  command.add_option("--calibration-original", files.calibration_original,
                     "the same inputs before earlier layers were quantized (for qep)");
  command.add_option("--test", files.test, "other inputs to measure on, tokens x K, .npy");
  command.add_option("--test-original", files.test_original,
                     "the same before earlier layers were quantized");
}

void check_files(const Method& method, const LayerFiles& files) {
  if (method.calibrated() && files.calibration.empty()) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--method {}: needs --calibration X.npy", method.spec()));
  }
  if (method.needs_originals() && files.calibration_original.empty()) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--method {}: needs --calibration-original X.npy", method.spec()));
  }
  const auto check_pair = [](const std::string& original, const std::string& inputs,
                             const char* option) {
    if (original.empty() || !inputs.empty()) return;
    throw Error(ErrorCode::bad_option, fmt::format("{0}-original: needs {0} X.npy", option));
  };
  check_pair(files.calibration_original, files.calibration, "--calibration");
  check_pair(files.test_original, files.test, "--test");
}

LayerProblem read_problem(const LayerFiles& files, Executor& executor) {
  LayerProblem out{read_matrix(files.weights), {}, {}, {}, {}, {}};
  const auto read_inputs = [&](const std::string& path, const std::optional<Matrix>& like) {
    std::optional<Matrix> inputs;
    if (path.empty()) return inputs;
    inputs = read_matrix(path);
    if (inputs->cols != out.weight.cols) {
      throw Error(ErrorCode::bad_shape, fmt::format("{}: {} columns, expected the {} of {}", path,
                                                    inputs->cols, out.weight.cols, files.weights));
    }
    if (like && like->rows != inputs->rows) {
      throw Error(ErrorCode::bad_shape,
                  fmt::format("{}: {} rows, expected as many as its inputs, {}", path, inputs->rows,
                              like->rows));
    }
    return inputs;
  };
  out.calibration_inputs = read_inputs(files.calibration, {});
  out.calibration_original = read_inputs(files.calibration_original, out.calibration_inputs);
  out.test_inputs = read_inputs(files.test, {});
  out.test_original = read_inputs(files.test_original, out.test_inputs);
  if (out.calibration_original) {
    out.calibration.emplace(out.weight.cols);
    out.calibration->add(out.calibration_inputs->view(), out.calibration_original->view(), executor,
                         files.calibration);
  } else if (out.calibration_inputs) {
    out.calibration.emplace(out.weight.cols);
    out.calibration->add(out.calibration_inputs->view(), executor, files.calibration);
  }
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
  const auto sqnr = [&](const std::optional<Matrix>& inputs,
                        const std::optional<Matrix>& original) {
    std::optional<double> db;
    if (inputs) {
      db = output_sqnr_db(inputs->view(), problem.weight.view(), layer, activations, executor,
                          original ? original->view() : MatrixView());
    }
    return db;
  };
  out.sqnr_calibration_db = sqnr(problem.calibration_inputs, problem.calibration_original);
  out.sqnr_test_db = sqnr(problem.test_inputs, problem.test_original);
  return out;
}

}  // namespace nybble::cli
