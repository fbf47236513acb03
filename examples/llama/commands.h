#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "evaluate.h"
#include "quantize.h"

namespace llama {

/// Where the text to score comes from: a file, or (in compare) the model itself.
struct TextOptions {
  std::string tokens_file;
  std::string text_file;
  std::size_t window = 256;    ///< also of the calibration
  std::size_t max_tokens = 0;  ///< predicted tokens; 0 = all
};

/// Where the text to calibrate on comes from: a file, or the f32 model itself.
struct CalibrationText {
  std::string tokens_file;
  std::string text_file;
  bool own_text = false;
  std::uint64_t seed = 2;     ///< of own text
  std::size_t windows = 128;  ///< at most, evenly spread over a file

  [[nodiscard]] bool given() const {
    return own_text || !tokens_file.empty() || !text_file.empty();
  }
};

/// What `perplexity` and `generate` run: the checkpoint as it is, or quantized in memory first.
struct LoadOptions {
  std::filesystem::path model;
  std::optional<QuantizeSettings> quantize;
  CalibrationText calibration;
  ModelSettings settings;
  bool path_given = false;  ///< else a quantized checkpoint's own path and activations
};

struct PerplexityOptions {
  TextOptions text;
  bool json = false;
};

struct GenerateOptions {
  std::string prompt;
  std::size_t tokens = 200;
  std::uint64_t seed = 1;
  double temperature = 0.8;
};

struct QuantizeOptions {
  std::filesystem::path model, out;
  QuantizeSettings quantize;
  ModelSettings settings;
  CalibrationText calibration;
  std::size_t window = 256;
};

enum class Output { text, markdown, json };

struct CompareOptions {
  std::filesystem::path model;
  TextOptions text;
  std::size_t sample = 4096;  ///< tokens the f32 model writes where no file is given
  std::uint64_t seed = 1;
  std::string rows;      ///< see parse_rows; empty: default_rows()
  ModelSettings common;  ///< target, activations and attention of every row
  bool full_precision_inputs = false;
  CalibrationText calibration;
  Output output = Output::text;
};

/// Each prints its result on stdout. All throw nybble::Error.
void run_perplexity(const LoadOptions& load, const PerplexityOptions& options, Executor& executor);
void run_generate(const LoadOptions& load, const GenerateOptions& options, Executor& executor);
void run_quantize(const QuantizeOptions& options, Executor& executor);
void run_compare(const CompareOptions& options, Executor& executor);

/// The windows that `options` name; exactly one of the files must be given. Throws bad_option.
Windows load_windows(const TextOptions& options, const Config& config);

/// Throws bad_option if the method needs calibration and `text` names none: before the work.
void check_calibration(const CalibrationText& text, const nybble::Method& method);
/// The windows that `text` names, none where it names nothing. `weights` are asked for only where
/// the model writes the text itself.
std::optional<Windows> load_calibration(
    const CalibrationText& text, std::size_t window, const Config& config,
    const std::function<std::shared_ptr<const Weights>()>& weights, Executor& executor);

}  // namespace llama
