#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "model.h"

namespace llama {

/// What to score: whole windows of tokens, one after the other. The first token of each is not
/// predicted.
struct Windows {
  std::vector<Token> tokens;
  std::size_t size = 0;

  [[nodiscard]] std::size_t count() const { return tokens.size() / size; }
  [[nodiscard]] std::span<const Token> window(std::size_t index) const {
    return std::span(tokens).subspan(index * size, size);
  }
};

/// Cuts tokens into windows of `size` >= 2, so many that at most `max_predicted` tokens are
/// predicted (0 = all), but at least one. Throws bad_value if there is not one whole window.
Windows cut_windows(std::vector<Token> tokens, std::size_t size, std::size_t max_predicted);

/// Sums over the predicted tokens, in f64.
struct Score {
  std::size_t predicted = 0;
  double nll = 0;         ///< negative log likelihood, nats
  double divergence = 0;  ///< KL(reference || model), nats
  double seconds = 0;     ///< spent in forward passes over those tokens
  double best_speed = 0;  ///< tokens per second of the fastest window

  [[nodiscard]] double nats_per_token() const { return nll / static_cast<double>(predicted); }
  [[nodiscard]] double perplexity() const;
  [[nodiscard]] double divergence_per_token() const {
    return divergence / static_cast<double>(predicted);
  }
  [[nodiscard]] double tokens_per_second() const {
    return static_cast<double>(predicted) / seconds;
  }
};

/// The log of the softmax of each row of logits, in f64.
struct LogProbabilities {
  std::size_t cols = 0;
  std::vector<double> values;

  explicit LogProbabilities(MatrixView logits);
  [[nodiscard]] std::span<const double> row(std::size_t index) const {
    return std::span(values).subspan(index * cols, cols);
  }
};

/// Runs the session over one window from its start, adds to `score` and returns the distributions.
/// With `reference`, the divergence from it is added too.
LogProbabilities score_window(Session& session, std::span<const Token> window, Score& score,
                              const LogProbabilities* reference = nullptr);

/// Tokens per second when the window's tokens are given one by one, as in generating text: the
/// fastest of three passes, because whatever else runs on the machine can only slow one down.
double decode_speed(Session& session, std::span<const Token> window);

}  // namespace llama
