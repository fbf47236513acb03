#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <string>

#include "commands.h"
#include "flags.h"
#include "nybble/error.h"
#include "rows.h"

namespace {

using nybble::Error;
using nybble::ErrorCode;

constexpr int kUsageError = 2;
constexpr int kInputError = 3;
constexpr int kInternalError = 1;

void run(int argc, char** argv) {
  CLI::App app("A small Llama inference engine on nybble's 4-bit linear layers", "llama");
  app.require_subcommand(1);
  llama::ModelFlags flags;

  llama::PerplexityOptions perplexity;
  CLI::App& perplexity_command = *app.add_subcommand("perplexity", "Score a text");
  flags.add_common(perplexity_command);
  flags.add_format(perplexity_command);
  flags.add_method(perplexity_command);
  flags.add_calibration(perplexity_command);
  llama::add_text(perplexity_command, perplexity.text);
  perplexity_command.add_flag("--json", perplexity.json, "Print JSON");

  llama::GenerateOptions generate;
  CLI::App& generate_command = *app.add_subcommand("generate", "Write text");
  flags.add_common(generate_command);
  flags.add_format(generate_command);
  generate_command.add_option("--prompt", generate.prompt, "Text (byte models) or token ids");
  generate_command.add_option("--tokens", generate.tokens, "Tokens to write")
      ->check(CLI::Range(std::size_t{1}, llama::kLargestCount))
      ->capture_default_str();
  generate_command.add_option("--seed", generate.seed, "Seed of the sampler")
      ->capture_default_str();
  generate_command.add_option("--temperature", generate.temperature, "0 = most likely token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();

  std::string out;
  std::size_t quantize_window = 256;
  CLI::App& quantize_command =
      *app.add_subcommand("quantize", "Write a checkpoint whose linear layers are 4-bit codes");
  flags.add_common(quantize_command);
  flags.add_format(quantize_command);
  quantize_command.get_option("--format")->required();
  flags.add_method(quantize_command);
  flags.add_calibration(quantize_command);
  llama::add_window(quantize_command, quantize_window, "Tokens a calibration window");
  quantize_command.add_option("--out", out, "Folder to write, or a .gguf file")->required();

  llama::CompareOptions compare;
  CLI::App& compare_command =
      *app.add_subcommand("compare", "Formats, methods and paths against the unquantized model");
  flags.add_common(compare_command);
  flags.add_calibration(compare_command);
  llama::add_text(compare_command, compare.text);
  compare_command
      .add_option("--sample", compare.sample, "Without a file: tokens the f32 model writes itself")
      ->check(CLI::Range(std::size_t{1}, llama::kLargestCount))
      ->capture_default_str();
  compare_command.add_option("--seed", compare.seed, "Seed of that text")->capture_default_str();
  compare_command.add_option(
      "--rows", compare.rows,
      "format/path[/method], between ',' or ';' (default: " + llama::default_rows() + ")");
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
  const auto executor = nybble::make_thread_executor(flags.threads);
  if (compare_command.parsed()) {
    compare.model = flags.model;
    compare.common = flags.common();
    compare.full_precision_inputs = flags.full_precision_inputs;
    compare.calibration = flags.calibration;
    compare.output = json       ? llama::Output::json
                     : markdown ? llama::Output::markdown
                                : llama::Output::text;
    return llama::run_compare(compare, *executor);
  }
  if (quantize_command.parsed()) {
    return llama::run_quantize(
        {flags.model, out, flags.quantize(), flags.settings(), flags.calibration, quantize_window},
        *executor);
  }
  if (generate_command.parsed()) return llama::run_generate(flags.load(), generate, *executor);
  llama::run_perplexity(flags.load(), perplexity, *executor);
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
