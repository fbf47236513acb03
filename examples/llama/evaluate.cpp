#include "evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "nybble/error.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Windows cut_windows(std::vector<Token> tokens, std::size_t size, std::size_t max_predicted) {
  std::size_t count = tokens.size() / size;
  if (count == 0) {
    throw Error(
        ErrorCode::bad_value,
        fmt::format("text of {} tokens: expected at least one window of {}", tokens.size(), size));
  }
  if (max_predicted != 0) count = std::clamp<std::size_t>(max_predicted / (size - 1), 1, count);
  tokens.resize(count * size);
  return {std::move(tokens), size};
}

double Score::perplexity() const { return std::exp(nats_per_token()); }

LogProbabilities::LogProbabilities(MatrixView logits)
    : cols(logits.cols), values(logits.rows * logits.cols) {
  for (std::size_t m = 0; m < logits.rows; ++m) {
    const float* in = logits.row(m);
    double* out = &values[m * cols];
    const auto largest = static_cast<double>(*std::max_element(in, in + cols));
    double sum = 0;
    for (std::size_t i = 0; i < cols; ++i) {
      out[i] = static_cast<double>(in[i]) - largest;
      sum += std::exp(out[i]);
    }
    const double log_sum = std::log(sum);
    for (std::size_t i = 0; i < cols; ++i) out[i] -= log_sum;
  }
}

LogProbabilities score_window(Session& session, std::span<const Token> window, Score& score,
                              const LogProbabilities* reference) {
  const auto start = Clock::now();
  session.reset();
  const MatrixView logits = session.forward(window.first(window.size() - 1), Session::Logits::all);
  const double seconds = seconds_since(start);
  score.seconds += seconds;
  score.best_speed = std::max(score.best_speed, static_cast<double>(logits.rows) / seconds);

  LogProbabilities result(logits);
  for (std::size_t m = 0; m < logits.rows; ++m) {
    const std::span<const double> q = result.row(m);
    score.nll -= q[window[m + 1]];
    if (reference == nullptr) continue;
    const std::span<const double> p = reference->row(m);
    for (std::size_t i = 0; i < q.size(); ++i) score.divergence += std::exp(p[i]) * (p[i] - q[i]);
  }
  score.predicted += logits.rows;
  return result;
}

double decode_speed(Session& session, std::span<const Token> window) {
  double best = 0;
  for (int pass = 0; pass < 3; ++pass) {
    const auto start = Clock::now();
    session.reset();
    for (std::size_t i = 0; i + 1 < window.size(); ++i) {
      session.forward(window.subspan(i, 1), Session::Logits::last);
    }
    best = std::max(best, static_cast<double>(window.size() - 1) / seconds_since(start));
  }
  return best;
}

}  // namespace llama
