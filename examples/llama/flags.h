#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "commands.h"

namespace llama {

/// Keeps counts from overflowing when they are added and multiplied.
inline constexpr std::size_t kLargestCount = std::size_t{1} << 28;

/// The options that say how a model is computed, as typed.
struct ModelFlags {
  std::string model, format, path, method = "rtn", activations, target;
  std::string kv, kv_values = "tokens", kv_path = "a8", attention_cast;
  bool kv_center = false;
  bool full_precision_inputs = false;
  std::size_t threads = 0;
  CalibrationText calibration;

  void add_common(CLI::App& command);
  void add_format(CLI::App& command);
  void add_method(CLI::App& command);
  void add_calibration(CLI::App& command);

  /// What all rows of compare share. Throws bad_option, as all below.
  [[nodiscard]] ModelSettings common() const;
  [[nodiscard]] ModelSettings settings() const;
  [[nodiscard]] QuantizeSettings quantize() const;
  [[nodiscard]] LoadOptions load() const;
};

/// Options for the text to score.
void add_text(CLI::App& command, TextOptions& text);
void add_window(CLI::App& command, std::size_t& window, const std::string& help);

}  // namespace llama
