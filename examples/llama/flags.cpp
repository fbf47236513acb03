#include "flags.h"

#include <memory>

#include "nybble/error.h"
#include "nybble/format/registry.h"

namespace llama {

void ModelFlags::add_common(CLI::App& command) {
  command.add_option("--model", model, "Folder with config.json and safetensors")->required();
  command.add_option("--activations", activations,
                     "Format of activations on path a4 (default: the weights')");
  auto* cache = command.add_option("--kv", kv, "Format of the KV cache (default: f32)");
  command.add_option("--kv-values", kv_values, "What scales of values run along")
      ->check(CLI::IsMember({"tokens", "head_dim"}))
      ->needs(cache)
      ->capture_default_str();
  command.add_option("--kv-path", kv_path, "Compute path of attention: a8, a16 or a32")
      ->needs(cache)
      ->capture_default_str();
  command
      .add_flag("--kv-center", kv_center, "Store keys less the mean key of the first tokens read")
      ->needs(cache);
  command
      .add_option("--attention-cast", attention_cast,
                  "Format that Q, K, softmax probabilities and V go through, without a 4-bit cache")
      ->excludes(cache);
  command.add_option("--target", target, "Kernel target by name, e.g. scalar, avx2");
  command.add_option("--threads", threads, "Threads (default: the CPUs this process may use)")
      ->check(CLI::Range(0, 1024));
}

void ModelFlags::add_format(CLI::App& command) {
  command.add_option("--format", format, "4-bit format of the linear layers (default: as stored)");
  command.add_option("--path", path,
                     "Compute path: a8, a16, a32 or a4 (default: a quantized checkpoint's, a8)");
}

void ModelFlags::add_method(CLI::App& command) {
  command
      .add_option("--method", method,
                  "Steps joined by '+', the last of which rounds, e.g. awq+gptq; `nybble layer "
                  "--help` lists them")
      ->capture_default_str();
}

void ModelFlags::add_calibration(CLI::App& command) {
  auto* tokens = command.add_option("--calibration-tokens", calibration.tokens_file,
                                    "Calibrate on a file of uint16 token ids");
  auto* text = command
                   .add_option("--calibration-text", calibration.text_file,
                               "Calibrate on a text file, for models whose tokens are bytes")
                   ->excludes(tokens);
  command
      .add_flag("--calibration-own-text", calibration.own_text,
                "Calibrate on text that the f32 model writes")
      ->excludes(tokens)
      ->excludes(text);
  command.add_option("--calibration-seed", calibration.seed, "Seed of that text")
      ->capture_default_str();
  command
      .add_option("--calibration-windows", calibration.windows,
                  "Windows of tokens to calibrate on, evenly spread over a file")
      ->check(CLI::Range(std::size_t{1}, kLargestCount))
      ->capture_default_str();
  command.add_flag("--calibrate-full-precision", full_precision_inputs,
                   "Calibrate on the f32 model's inputs instead of the quantized model's");
}

ModelSettings ModelFlags::common() const {
  ModelSettings settings;
  settings.linear.target = target;
  if (!activations.empty()) settings.linear.activations = nybble::parse_format(activations);
  if (!kv.empty()) {
    const nybble::AnyFormat kv_format = nybble::parse_format(kv);
    settings.kv = {
        kv_format, kv_format,
        kv_values == "tokens" ? nybble::ValueGroups::tokens : nybble::ValueGroups::head_dim,
        nybble::parse_path(kv_path), target};
  }
  settings.kv_center = kv_center;
  if (!attention_cast.empty()) settings.attention_cast = nybble::parse_format(attention_cast);
  return settings;
}

ModelSettings ModelFlags::settings() const {
  ModelSettings settings = common();
  if (!path.empty()) settings.linear.path = nybble::parse_path(path);
  if (!activations.empty() && settings.linear.path != nybble::Path::a4) {
    throw nybble::Error(nybble::ErrorCode::bad_option, "--activations needs --path a4");
  }
  return settings;
}

QuantizeSettings ModelFlags::quantize() const {
  return {nybble::parse_format(format), std::make_shared<const nybble::Method>(method),
          full_precision_inputs};
}

LoadOptions ModelFlags::load() const {
  LoadOptions options;
  options.model = model;
  options.settings = settings();
  options.path_given = !path.empty();
  options.calibration = calibration;
  if (!format.empty()) {
    options.quantize = quantize();
  } else if (method != "rtn") {
    throw nybble::Error(nybble::ErrorCode::bad_option, "--method needs --format");
  }
  return options;
}

void add_text(CLI::App& command, TextOptions& text) {
  auto* tokens = command.add_option("--tokens", text.tokens_file, "File of uint16 token ids");
  command.add_option("--text", text.text_file, "Text file, for models whose tokens are bytes")
      ->excludes(tokens);
  add_window(command, text.window, "Tokens a window; the first is not predicted");
  command.add_option("--max-tokens", text.max_tokens,
                     "Predict at most so many tokens, in whole windows");
}

void add_window(CLI::App& command, std::size_t& window, const std::string& help) {
  command.add_option("--window", window, help)
      ->check(CLI::Range(std::size_t{2}, kLargestCount))
      ->capture_default_str();
}

}  // namespace llama
