#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "nybble/quantize/method.h"

/// One linear layer as `layer` and `sweep` read it, and what a method made of it.
namespace nybble::cli {

/// A matrix of an .npy file with two axes.
struct Matrix {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::vector<float> values;

  [[nodiscard]] MatrixView view() const { return {values.data(), rows, cols}; }
};

/// Throws io, bad_file, bad_shape and, for Inf or NaN, bad_value, naming the path.
Matrix read_matrix(const std::string& path);

/// What `--activations` names; empty: nothing. Throws bad_option, also for what no kernel computes.
std::optional<AnyFormat> parse_activations(const std::string& spec);

/// The .npy files of a layer; empty: none. Originals are what the inputs were before earlier layers
/// were quantized: outputs are compared with theirs.
struct LayerFiles {
  std::string weights, calibration, calibration_original, test, test_original;

  [[nodiscard]] std::vector<std::string> names() const {
    return {weights, calibration, calibration_original, test, test_original};
  }
};
/// Their options.
void add_layer_files(CLI::App& command, LayerFiles& files);

/// Throws bad_option if `method` needs a file that there is none of, or an original is named
/// without its inputs.
void check_files(const Method& method, const LayerFiles& files);

struct LayerProblem {
  Matrix weight;
  std::optional<Matrix> calibration_inputs, calibration_original, test_inputs, test_original;
  std::optional<Calibration> calibration;
};

/// Reads the files and gathers the calibration. Throws as read_matrix and where shapes do not
/// agree.
LayerProblem read_problem(const LayerFiles& files, Executor& executor);

struct LayerScore {
  double bits_per_weight = 0;
  double weight_sqnr_db = 0;  ///< of the effective weights; Inf for no error
  std::optional<double> sqnr_calibration_db, sqnr_test_db;
  double seconds = 0;
};

LayerScore score(const LayerProblem& problem, const QuantizedLayer& layer,
                 const std::optional<AnyFormat>& activations, Executor& executor);

}  // namespace nybble::cli
