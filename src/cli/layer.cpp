#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "commands.h"
#include "layer_problem.h"
#include "nybble/error.h"
#include "nybble/io/npy.h"
#include "output.h"

namespace nybble::cli {

namespace {

struct Options {
  LayerFiles files;
  std::string format, method = "gptq", activations, out;
  std::size_t threads = 0;
  bool json = false;
};

void print_text(const Options& options, const LayerProblem& problem, const QuantizedLayer& layer,
                const LayerScore& score, const std::string& method) {
  const auto line = [](const std::string& name, const std::string& value) {
    fmt::print("{:<22} {}\n", name, value);
  };
  line("weights", fmt::format("{} x {}", problem.weight.rows, problem.weight.cols));
  line("format", layer.weight.format.info().spec);
  line("method", method);
  if (!options.activations.empty()) line("activations", options.activations);
  line("bits per weight", fmt::format("{:.3f}", score.bits_per_weight));
  line("weight SQNR", fmt::format("{:.2f} dB", score.weight_sqnr_db));
  if (score.sqnr_calibration_db) {
    line("output SQNR",
         fmt::format("{:.2f} dB on the calibration inputs", *score.sqnr_calibration_db));
  }
  if (score.sqnr_test_db) {
    line("output SQNR", fmt::format("{:.2f} dB on the test inputs", *score.sqnr_test_db));
  }
  for (const auto& [name, value] : layer.decisions) line(name, value);
  line("seconds", fmt::format("{:.3f}", score.seconds));
  line("peak memory", fmt::format("{:.1f} MB", static_cast<double>(peak_bytes()) / 1e6));
}

void print_json(const Options& options, const LayerProblem& problem, const QuantizedLayer& layer,
                const LayerScore& score, const std::string& method) {
  Json json;
  json["rows"] = problem.weight.rows;
  json["cols"] = problem.weight.cols;
  json["format"] = layer.weight.format.info().spec;
  json["method"] = method;
  json["activations"] = options.activations.empty() ? Json() : Json(options.activations);
  json["bits_per_weight"] = score.bits_per_weight;
  json["weight_sqnr_db"] = score.weight_sqnr_db;
  const auto number = [](const std::optional<double>& value) {
    return value ? Json(*value) : Json();
  };
  json["sqnr_calibration_db"] = number(score.sqnr_calibration_db);
  json["sqnr_test_db"] = number(score.sqnr_test_db);
  json["seconds"] = score.seconds;
  json["peak_bytes"] = peak_bytes();
  Json decisions = Json::object();
  for (const auto& [name, value] : layer.decisions) decisions[name] = value;
  json["decisions"] = decisions;
  cli::print_json(json);
}

void run(const Options& options) {
  const AnyFormat format = parse_format(options.format);
  const Method method(options.method);
  const std::optional<AnyFormat> activations = parse_activations(options.activations);
  check_files(method, options.files);
  if (activations && options.files.calibration.empty() && options.files.test.empty()) {
    throw Error(ErrorCode::bad_option,
                "--activations: no inputs, expected --calibration X.npy or --test T.npy");
  }
  check_writable({options.out}, options.files.names());
  const std::unique_ptr<Executor> executor = make_thread_executor(options.threads);
  const LayerProblem problem = read_problem(options.files, *executor);
  const QuantizedLayer layer = quantize_layer(problem.weight.view(), format, method,
                                              problem.calibration ? &*problem.calibration : nullptr,
                                              *executor, {options.files.weights, activations});
  const LayerScore result = score(problem, layer, activations, *executor);
  if (!options.out.empty()) {
    const std::size_t shape[] = {problem.weight.rows, problem.weight.cols};
    write_npy(options.out, shape, effective_weight(layer, *executor));
  }
  if (options.json) {
    print_json(options, problem, layer, result, method.spec());
  } else {
    print_text(options, problem, layer, result, method.spec());
  }
}

std::string method_help() {
  std::string out = "Methods, joined by '+', e.g. awq+gptq:damp=0.01,refine=cd\n";
  for (const MethodFamily& family : method_families()) {
    out += fmt::format("  {:<12} {}\n{:15}{}\n", family.name, family.summary, "", family.options);
  }
  return out;
}

}  // namespace

void add_layer_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("layer", "Quantize one linear layer and measure its error");
  add_layer_files(*command, options->files);
  command->add_option("--format", options->format, "format of the weights")->required();
  command->add_option("--method", options->method, "how to quantize, see below")
      ->capture_default_str();
  command->add_option("--activations", options->activations,
                      "format of the inputs; default: not quantized");
  command->add_option("--out", options->out,
                      "the weights that are left, transforms undone, N x K f32 .npy");
  add_threads_option(*command, options->threads);
  add_json_option(*command, options->json);
  command->footer(method_help());
  command->callback([options] { run(*options); });
}

}  // namespace nybble::cli
