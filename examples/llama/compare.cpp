#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "commands.h"
#include "nybble/error.h"
#include "progress.h"
#include "rows.h"
#include "sampler.h"
#include "table.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;

/// One line of the table.
struct Entry {
  Model model;
  Session session;
  Score score;
  double decode_speed = 0;

  Entry(std::shared_ptr<const Weights> weights, std::shared_ptr<const QuantizedWeights> quantized,
        ModelSettings settings, std::size_t window, Executor& executor)
      : model(std::move(weights), std::move(quantized), std::move(settings), executor),
        session(model, window, executor) {}
};

/// Entries know each other by address (a session refers to its model), so they do not move.
using Entries = std::vector<std::unique_ptr<Entry>>;

Windows make_windows(const Model& reference, const CompareOptions& options, Executor& executor) {
  const TextOptions& text = options.text;
  if (!text.tokens_file.empty() || !text.text_file.empty()) {
    return load_windows(text, reference.config());
  }
  return cut_windows(sample_windows(reference, options.sample, text.window, options.seed, executor),
                     text.window, text.max_tokens);
}

/// Every window through every model: the reference's distributions never need to be kept for more
/// than one window, and a slow minute of the machine hits all rows alike.
void score(Entries& entries, const Windows& windows) {
  Progress progress("scoring", windows.count() + entries.size());
  for (std::size_t i = 0; i < windows.count(); ++i) {
    const std::span<const Token> window = windows.window(i);
    const LogProbabilities reference = score_window(entries[0]->session, window, entries[0]->score);
    for (std::size_t e = 1; e < entries.size(); ++e) {
      score_window(entries[e]->session, window, entries[e]->score, &reference);
    }
    progress.advance();
  }
  for (auto& entry : entries) {
    entry->decode_speed = decode_speed(entry->session, windows.window(0));
    progress.advance();
  }
}

void print_json(const Entries& entries) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const auto& entry : entries) {
    const Score& score = entry->score;
    json.push_back({{"format", entry->model.format_name()},
                    {"method", entry->model.method_name()},
                    {"path", entry->model.path_name()},
                    {"bits_per_weight", entry->model.bits_per_weight()},
                    {"perplexity", score.perplexity()},
                    {"delta", score.perplexity() / entries[0]->score.perplexity() - 1},
                    {"kl_divergence", score.divergence_per_token()},
                    {"tokens", score.predicted},
                    {"quantize_seconds", entry->model.quantize_seconds()},
                    {"prefill_tokens_per_second", score.best_speed},
                    {"decode_tokens_per_second", entry->decode_speed},
                    {"kernel", entry->model.kernels()}});
  }
  fmt::print("{}\n", json.dump(2));
}

void print_table(const Entries& entries, const CompareOptions& options, const Windows& windows) {
  // The method, the change and the time only where some row is more than round to nearest.
  const bool methods = std::any_of(entries.begin() + 1, entries.end(), [](const auto& entry) {
    return entry->model.method_name() != "rtn";
  });
  const auto cells = [&](std::vector<std::string> all) {
    if (methods) return all;
    return std::vector<std::string>{all[0], all[2], all[3], all[4],
                                    all[6], all[8], all[9], all[10]};
  };
  Table table(cells({"format", "method", "path", "bits/weight", "perplexity", "to f32",
                     "KL nats/token", "quantize s", "prefill tok/s", "decode tok/s", "kernel"}),
              methods ? 3 : 2);
  for (const auto& entry : entries) {
    const Score& score = entry->score;
    const double delta = score.perplexity() / entries[0]->score.perplexity() - 1;
    table.add(
        cells({entry->model.format_name(), entry->model.method_name(), entry->model.path_name(),
               fmt::format("{:.3f}", entry->model.bits_per_weight()),
               fmt::format("{:.4f}", score.perplexity()), fmt::format("{:+.2f} %", 100 * delta),
               fmt::format("{:.5f}", score.divergence_per_token()),
               fmt::format("{:.1f}", entry->model.quantize_seconds()),
               fmt::format("{:.0f}", score.best_speed), fmt::format("{:.0f}", entry->decode_speed),
               entry->model.kernels()}));
  }
  const TextOptions& text = options.text;
  const std::string source = !text.text_file.empty() ? text.text_file
                             : !text.tokens_file.empty()
                                 ? text.tokens_file
                                 : fmt::format("the f32 model's own text, seed {}", options.seed);
  if (options.output == Output::markdown) {
    fmt::print("{}", table.markdown());
    return;
  }
  fmt::print("{:.2f} M weights in linear layers; {} windows of {} tokens from {}.\n",
             static_cast<double>(entries[0]->model.linear_weights()) * 1e-6, windows.count(),
             windows.size, source);
  if (options.common.kv) {
    fmt::print("KV cache of all rows but the first in {}.\n", options.common.kv->keys.info().spec);
  }
  if (options.common.attention_cast) {
    fmt::print("Attention (Q, K, P, V) of all rows but the first in {}.\n",
               options.common.attention_cast->info().spec);
  }
  fmt::print(
      "KL is the divergence from the first row, whose speed is that of plain loops for the "
      "baseline CPU.\nSpeeds: best window (prefill), best of three passes (decode).\n\n{}",
      table.text());
}

}  // namespace

void run_compare(const CompareOptions& options, Executor& executor) {
  // Rows are parsed before the text is sampled, so that a typing error is told at once.
  std::vector<Row> rows =
      parse_rows(options.rows.empty() ? default_rows() : options.rows, options.common);
  bool calibrated = false;
  for (Row& row : rows) {
    row.quantize.full_precision_inputs = options.full_precision_inputs;
    check_calibration(options.calibration, *row.quantize.method);
    calibrated = calibrated || row.quantize.method->calibrated();
  }
  const std::shared_ptr<const Weights> weights = load_weights(options.model);
  if (weights->quantized) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--model {}: is quantized already", options.model.string()));
  }
  std::optional<Windows> calibration;
  if (calibrated) {
    calibration = load_calibration(
        options.calibration, options.text.window, weights->config, [&] { return weights; },
        executor);
  }
  const std::size_t window = options.text.window;
  Entries entries;
  entries.push_back(std::make_unique<Entry>(weights, nullptr, ModelSettings{}, window, executor));
  const Windows windows = make_windows(entries[0]->model, options, executor);
  for (const Row& row : rows) {
    entries.push_back(
        std::make_unique<Entry>(weights,
                                quantize_weights(*weights, row.quantize, row.settings,
                                                 calibration ? &*calibration : nullptr, executor),
                                row.settings, window, executor));
  }
  score(entries, windows);
  if (options.output == Output::json) return print_json(entries);
  print_table(entries, options, windows);
}

}  // namespace llama
