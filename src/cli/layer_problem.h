#pragma once

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

/// Throws bad_option if `method` needs calibration and there is none (an empty name).
void check_calibration(const Method& method, const std::string& calibration);

struct LayerProblem {
  Matrix weight;
  std::optional<Matrix> calibration_inputs, test_inputs;
  std::optional<Calibration> calibration;
};

/// Reads the files (empty names: none) and gathers the calibration. Throws as read_matrix and where
/// columns do not agree.
LayerProblem read_problem(const std::string& weight, const std::string& calibration,
                          const std::string& test, Executor& executor);

struct LayerScore {
  double bits_per_weight = 0;
  double weight_sqnr_db = 0;  ///< of the effective weights; Inf for no error
  std::optional<double> sqnr_calibration_db, sqnr_test_db;
  double seconds = 0;
};

LayerScore score(const LayerProblem& problem, const QuantizedLayer& layer,
                 const std::optional<AnyFormat>& activations, Executor& executor);

}  // namespace nybble::cli
