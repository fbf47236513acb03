#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <string>
#include <utility>

#include "commands.h"
#include "nybble/error.h"
#include "nybble/format/registry.h"

namespace {

using nybble::Error;
using nybble::ErrorCode;

constexpr int kUsageError = 2;
constexpr int kInputError = 3;
constexpr int kInternalError = 1;
/// Keeps counts from overflowing when they are added and multiplied.
constexpr std::size_t kLargestCount = std::size_t{1} << 28;

/// The options that say how a model is computed, as typed.
struct ModelFlags {
  std::string model, format, path = "a8", activations, target;
  std::string kv, kv_values = "tokens", kv_path = "a8", attention_cast;
  bool kv_center = false;
  std::size_t threads = 0;

  void add_common(CLI::App& command) {
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
        .add_option(
            "--attention-cast", attention_cast,
            "Format that Q, K, softmax probabilities and V go through, without a 4-bit cache")
        ->excludes(cache);
    command.add_option("--target", target, "Kernel target by name, e.g. scalar, avx2");
    command.add_option("--threads", threads, "Threads (default: the CPUs this process may use)")
        ->check(CLI::Range(0, 1024));
  }
  void add_format(CLI::App& command) {
    command.add_option("--format", format, "4-bit format of the linear layers (default: f32)");
    command.add_option("--path", path, "Compute path: a8, a16, a32 or a4")->capture_default_str();
  }

  /// What all rows of compare share.
  [[nodiscard]] llama::ModelSettings common() const {
    llama::ModelSettings settings;
    settings.linear.options.target = target;
    if (!activations.empty()) {
      settings.linear.options.activations = nybble::parse_format(activations);
    }
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
  [[nodiscard]] llama::ModelSettings settings() const {
    llama::ModelSettings settings = common();
    settings.linear.options.path = nybble::parse_path(path);
    if (!format.empty()) settings.linear.format = nybble::parse_format(format);
    if (!activations.empty() &&
        (format.empty() || settings.linear.options.path != nybble::Path::a4)) {
      throw Error(ErrorCode::bad_option, "--activations needs --format and --path a4");
    }
    return settings;
  }
};

void add_text(CLI::App& command, llama::TextOptions& text) {
  auto* tokens = command.add_option("--tokens", text.tokens_file, "File of uint16 token ids");
  command.add_option("--text", text.text_file, "Text file, for models whose tokens are bytes")
      ->excludes(tokens);
  command.add_option("--window", text.window, "Tokens a window; the first is not predicted")
      ->check(CLI::Range(std::size_t{2}, kLargestCount))
      ->capture_default_str();
  command.add_option("--max-tokens", text.max_tokens,
                     "Predict at most so many tokens, in whole windows");
}

void run(int argc, char** argv) {
  CLI::App app("A small Llama inference engine on nybble's 4-bit linear layers", "llama");
  app.require_subcommand(1);
  ModelFlags flags;

  llama::PerplexityOptions perplexity;
  CLI::App& perplexity_command = *app.add_subcommand("perplexity", "Score a text");
  flags.add_common(perplexity_command);
  flags.add_format(perplexity_command);
  add_text(perplexity_command, perplexity.text);
  perplexity_command.add_flag("--json", perplexity.json, "Print JSON");

  llama::GenerateOptions generate;
  CLI::App& generate_command = *app.add_subcommand("generate", "Write text");
  flags.add_common(generate_command);
  flags.add_format(generate_command);
  generate_command.add_option("--prompt", generate.prompt, "Text (byte models) or token ids");
  generate_command.add_option("--tokens", generate.tokens, "Tokens to write")
      ->check(CLI::Range(std::size_t{1}, kLargestCount))
      ->capture_default_str();
  generate_command.add_option("--seed", generate.seed, "Seed of the sampler")
      ->capture_default_str();
  generate_command.add_option("--temperature", generate.temperature, "0 = most likely token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();

  llama::CompareOptions compare;
  CLI::App& compare_command =
      *app.add_subcommand("compare", "Formats and paths against the unquantized model");
  flags.add_common(compare_command);
  add_text(compare_command, compare.text);
  compare_command
      .add_option("--sample", compare.sample, "Without a file: tokens the f32 model writes itself")
      ->check(CLI::Range(std::size_t{1}, kLargestCount))
      ->capture_default_str();
  compare_command.add_option("--seed", compare.seed, "Seed of that text")->capture_default_str();
  compare_command.add_option(
      "--rows", compare.rows,
      "format/path,format/path,... (default: " + llama::default_rows() + ")");
  bool json = false;
  bool markdown = false;
  auto* json_flag = compare_command.add_flag("--json", json, "Print JSON");
  compare_command.add_flag("--markdown", markdown, "Print a GitHub table")->excludes(json_flag);

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    app.exit(help);
    return;
  }
  const bool comparing = compare_command.parsed();
  llama::ModelSettings settings = comparing ? flags.common() : flags.settings();
  const auto executor = nybble::make_thread_executor(flags.threads);
  auto weights = llama::load_weights(flags.model);
  if (comparing) {
    compare.common = std::move(settings);
    compare.output = json       ? llama::Output::json
                     : markdown ? llama::Output::markdown
                                : llama::Output::text;
    return llama::run_compare(std::move(weights), compare, *executor);
  }
  const llama::Model model(std::move(weights), std::move(settings), *executor);
  if (generate_command.parsed()) return llama::run_generate(model, generate, *executor);
  llama::run_perplexity(model, perplexity, *executor);
}

int report(const std::string& message, int code) {
  fmt::print(stderr, "llama: {}\n", message);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return report(error.what(), kUsageError);
  } catch (const nybble::Error& error) {
    return report(error.what(), error.code() == ErrorCode::bad_option ? kUsageError : kInputError);
  } catch (const std::exception& error) {
    return report(error.what(), kInternalError);
  }
}
