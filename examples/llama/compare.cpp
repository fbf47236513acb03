#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "commands.h"
#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "progress.h"
#include "sampler.h"
#include "table.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;

/// "int4/a8,amxfp4:scale=e8m0,search=mse/a16" is two rows: a comma ends one only behind its path.
std::vector<std::string> split_rows(std::string_view text) {
  std::vector<std::string> rows;
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] != ',') continue;
    const std::string_view row = text.substr(begin, i - begin);
    if (i < text.size() && row.find('/') == row.npos) continue;
    rows.emplace_back(row);
    begin = i + 1;
  }
  return rows;
}

ModelSettings parse_row(const std::string& row, const ModelSettings& common) {
  const std::size_t slash = row.find('/');
  if (slash == row.npos) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--rows: \"{}\", expected format/path, such as int4/a8", row));
  }
  ModelSettings settings = common;
  settings.linear.format = nybble::parse_format(row.substr(0, slash));
  settings.linear.options.path = nybble::parse_path(row.substr(slash + 1));
  if (settings.linear.options.path != nybble::Path::a4) {
    settings.linear.options.activations.reset();
  }
  return settings;
}

/// One line of the table.
struct Entry {
  Model model;
  Session session;
  Score score;
  double decode_speed = 0;

  Entry(std::shared_ptr<const Weights> weights, ModelSettings settings, std::size_t window,
        Executor& executor)
      : model(std::move(weights), std::move(settings), executor),
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
                    {"path", entry->model.path_name()},
                    {"bits_per_weight", entry->model.bits_per_weight()},
                    {"perplexity", score.perplexity()},
                    {"kl_divergence", score.divergence_per_token()},
                    {"tokens", score.predicted},
                    {"prefill_tokens_per_second", score.best_speed},
                    {"decode_tokens_per_second", entry->decode_speed},
                    {"kernel", entry->model.kernels()}});
  }
  fmt::print("{}\n", json.dump(2));
}

void print_table(const Entries& entries, const CompareOptions& options, const Windows& windows) {
  Table table({"format", "path", "bits/weight", "perplexity", "KL nats/token", "prefill tok/s",
               "decode tok/s", "kernel"},
              2);
  for (const auto& entry : entries) {
    const Score& score = entry->score;
    table.add({entry->model.format_name(), entry->model.path_name(),
               fmt::format("{:.3f}", entry->model.bits_per_weight()),
               fmt::format("{:.4f}", score.perplexity()),
               fmt::format("{:.5f}", score.divergence_per_token()),
               fmt::format("{:.0f}", score.best_speed), fmt::format("{:.0f}", entry->decode_speed),
               entry->model.kernels()});
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

std::string default_rows() {
  return "int4/a8,int4:group=128/a8,int4:zero_point=true/a8,fp4/a8,nf4/a8,nf4/a32,fp4_bnb/a32,"
         "mxfp4/a8,nvfp4/a8,nvfp4:search=4over6/a8,amxfp4/a16,amxfp4:search=mse/a16,"
         "int4/a4,mxfp4/a4,nvfp4/a4,amxfp4/a4";
}

void run_compare(std::shared_ptr<const Weights> weights, const CompareOptions& options,
                 Executor& executor) {
  // Rows are parsed before the text is sampled, so that a typing error is told at once.
  std::vector<ModelSettings> settings = {ModelSettings{}};
  for (const std::string& row : split_rows(options.rows.empty() ? default_rows() : options.rows)) {
    settings.push_back(parse_row(row, options.common));
  }
  Entries entries;
  for (const ModelSettings& each : settings) {
    entries.push_back(std::make_unique<Entry>(weights, each, options.text.window, executor));
  }
  const Windows windows = make_windows(entries[0]->model, options, executor);
  score(entries, windows);
  if (options.output == Output::json) return print_json(entries);
  print_table(entries, options, windows);
}

}  // namespace llama
