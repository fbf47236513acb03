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

Windows load_windows(const TextOptions& options, const Config& config) {
  if (options.tokens_file.empty() == options.text_file.empty()) {
    throw nybble::Error(nybble::ErrorCode::bad_option, "expected one of --tokens and --text");
  }
  std::vector<Token> tokens = options.text_file.empty() ? read_tokens(options.tokens_file, config)
                                                        : read_text(options.text_file, config);
  return cut_windows(std::move(tokens), options.window, options.max_tokens);
}

void run_perplexity(const Model& model, const PerplexityOptions& options, Executor& executor) {
  const Windows windows = load_windows(options.text, model.config());
  Session session(model, windows.size, executor);
  Score score;
  Progress progress("scoring", windows.count());
  for (std::size_t i = 0; i < windows.count(); ++i) {
    score_window(session, windows.window(i), score);
    progress.advance();
  }
  if (options.json) {
    const nlohmann::ordered_json json = {{"format", model.format_name()},
                                         {"path", model.path_name()},
                                         {"bits_per_weight", model.bits_per_weight()},
                                         {"perplexity", score.perplexity()},
                                         {"nats_per_token", score.nats_per_token()},
                                         {"tokens", score.predicted},
                                         {"tokens_per_second", score.tokens_per_second()},
                                         {"kernel", model.kernels()}};
    fmt::print("{}\n", json.dump(2));
    return;
  }
  fmt::print("format            {}\n", model.format_name());
  fmt::print("path              {}\n", model.path_name());
  fmt::print("bits per weight   {:.3f}\n", model.bits_per_weight());
  fmt::print("perplexity        {:.5f}\n", score.perplexity());
  fmt::print("nats per token    {:.6f}\n", score.nats_per_token());
  fmt::print("tokens            {}\n", score.predicted);
  fmt::print("tokens per second {:.0f}\n", score.tokens_per_second());
  fmt::print("kernel            {}\n", model.kernels());
}

void run_generate(const Model& model, const GenerateOptions& options, Executor& executor) {
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
