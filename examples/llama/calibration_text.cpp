// The text that quantizers are fitted to.

#include <fmt/format.h>

#include <algorithm>

#include "commands.h"
#include "nybble/error.h"
#include "sampler.h"
#include "text.h"

namespace llama {
namespace {

/// `count` windows, evenly spread over all of them.
Windows spread(const Windows& all, std::size_t count) {
  if (all.count() <= count) return all;
  Windows out{{}, all.size};
  for (std::size_t i = 0; i < count; ++i) {
    const std::span<const Token> window = all.window(all.count() * i / count);
    out.tokens.insert(out.tokens.end(), window.begin(), window.end());
  }
  return out;
}

}  // namespace

void check_calibration(const CalibrationText& text, const nybble::Method& method) {
  if (!method.calibrated() || text.given()) return;
  throw nybble::Error(nybble::ErrorCode::bad_option,
                      fmt::format("method '{}' needs calibration: expected --calibration-tokens, "
                                  "--calibration-text or --calibration-own-text",
                                  method.spec()));
}

std::optional<Windows> load_calibration(
    const CalibrationText& text, std::size_t window, const Config& config,
    const std::function<std::shared_ptr<const Weights>()>& weights, Executor& executor) {
  if (!text.given()) return std::nullopt;
  if (text.own_text) {
    const Model model(weights(), nullptr, {}, executor);
    return cut_windows(sample_windows(model, text.windows * window, window, text.seed, executor),
                       window, 0);
  }
  std::vector<Token> tokens = text.text_file.empty() ? read_tokens(text.tokens_file, config)
                                                     : read_text(text.text_file, config);
  return spread(cut_windows(std::move(tokens), window, 0), text.windows);
}

}  // namespace llama
