#include "commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "nybble/error.h"
#include "progress.h"
#include "sampler.h"
#include "text.h"

namespace llama {
namespace {

/// The checkpoint as it is, or quantized in memory, ready to run.
Model make_model(const std::shared_ptr<const Weights>& weights, const LoadOptions& options,
                 std::size_t window, Executor& executor) {
  ModelSettings settings = options.settings;
  if (!weights->quantized) {
    if (!options.quantize) {
      if (settings.linear.activations) {
        throw nybble::Error(nybble::ErrorCode::bad_option,
                            "--activations needs --format or a quantized checkpoint");
      }
      return {weights, nullptr, std::move(settings), executor};
    }
    const std::optional<Windows> windows = load_calibration(
        options.calibration, window, weights->config, [&] { return weights; }, executor);
    auto quantized = quantize_weights(*weights, *options.quantize, settings,
                                      windows ? &*windows : nullptr, executor);
    return {weights, std::move(quantized), std::move(settings), executor};
  }
  if (options.quantize) {
    throw nybble::Error(nybble::ErrorCode::bad_option,
                        fmt::format("--format: {} is quantized already", options.model.string()));
  }
  if (!options.path_given) {
    settings.linear.path = weights->quantized->path;
    settings.linear.activations = weights->quantized->activations;
  }
  return {weights, weights->quantized, std::move(settings), executor};
}

}  // namespace

Windows load_windows(const TextOptions& options, const Config& config) {
  if (options.tokens_file.empty() == options.text_file.empty()) {
    throw nybble::Error(nybble::ErrorCode::bad_option, "expected one of --tokens and --text");
  }
  std::vector<Token> tokens = options.text_file.empty() ? read_tokens(options.tokens_file, config)
                                                        : read_text(options.text_file, config);
  return cut_windows(std::move(tokens), options.window, options.max_tokens);
}

void run_perplexity(const LoadOptions& load, const PerplexityOptions& options, Executor& executor) {
  if (load.quantize) check_calibration(load.calibration, *load.quantize->method);
  const std::shared_ptr<const Weights> weights = load_weights(load.model);
  const Windows windows = load_windows(options.text, weights->config);
  const Model model = make_model(weights, load, windows.size, executor);
  Session session(model, windows.size, executor);
  Score score;
  Progress progress("scoring", windows.count());
  for (std::size_t i = 0; i < windows.count(); ++i) {
    score_window(session, windows.window(i), score);
    progress.advance();
  }
  if (options.json) {
    const nlohmann::ordered_json json = {
        {"format", model.format_name()},    {"method", model.method_name()},
        {"path", model.path_name()},        {"bits_per_weight", model.bits_per_weight()},
        {"perplexity", score.perplexity()}, {"nats_per_token", score.nats_per_token()},
        {"tokens", score.predicted},        {"tokens_per_second", score.tokens_per_second()},
        {"kernel", model.kernels()}};
    fmt::print("{}\n", json.dump(2));
    return;
  }
  fmt::print("format            {}\n", model.format_name());
  fmt::print("method            {}\n", model.method_name());
  fmt::print("path              {}\n", model.path_name());
  fmt::print("bits per weight   {:.3f}\n", model.bits_per_weight());
  fmt::print("perplexity        {:.5f}\n", score.perplexity());
  fmt::print("nats per token    {:.6f}\n", score.nats_per_token());
  fmt::print("tokens            {}\n", score.predicted);
  fmt::print("tokens per second {:.0f}\n", score.tokens_per_second());
  fmt::print("kernel            {}\n", model.kernels());
}

void run_generate(const LoadOptions& load, const GenerateOptions& options, Executor& executor) {
  const Model model = make_model(load_weights(load.model), load, 0, executor);
  const std::vector<Token> prompt = parse_prompt(options.prompt, model.config());
  Session session(model, prompt.size() + options.tokens, executor);
  Random random(options.seed);
  const auto print = [&](Token token) {
    const std::string text = token_text(token, model.config());
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  for (const Token token : prompt) print(token);

  MatrixView logits = session.forward(prompt, Session::Logits::last);
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < options.tokens; ++i) {
    const Token token = sample({logits.data, logits.cols}, options.temperature, random);
    print(token);
    logits = session.forward({&token, 1}, Session::Logits::last);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  fmt::print("\n");
  fmt::print(stderr, "{} tokens, {:.0f} tokens per second, format {}, kernel {}\n", options.tokens,
             static_cast<double>(options.tokens) / elapsed.count(), model.format_name(),
             model.kernels());
}

}  // namespace llama
