#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "evaluate.h"

namespace llama {

/// Where the text to score comes from: a file, or (in compare) the model itself.
struct TextOptions {
  std::string tokens_file;
  std::string text_file;
  std::size_t window = 256;
  std::size_t max_tokens = 0;  ///< predicted tokens; 0 = all
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

enum class Output { text, markdown, json };

struct CompareOptions {
  TextOptions text;
  std::size_t sample = 4096;  ///< tokens the f32 model writes where no file is given
  std::uint64_t seed = 1;
  std::string rows;      ///< "spec/path,spec/path..."; empty: default_rows()
  ModelSettings common;  ///< target, activations and attention of every row
  Output output = Output::text;
};

/// The rows of `compare` where none are given, in the same notation.
std::string default_rows();

/// Each prints its result on stdout. All throw nybble::Error.
void run_perplexity(const Model& model, const PerplexityOptions& options, Executor& executor);
void run_generate(const Model& model, const GenerateOptions& options, Executor& executor);
void run_compare(std::shared_ptr<const Weights> weights, const CompareOptions& options,
                 Executor& executor);

/// The windows that `options` name; exactly one of the files must be given. Throws bad_option.
Windows load_windows(const TextOptions& options, const Config& config);

}  // namespace llama
