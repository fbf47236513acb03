#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "commands.h"
#include "layer_problem.h"
#include "nybble/error.h"
#include "nybble/io/atomic_file.h"
#include "output.h"
#include "sweep_chart.h"

namespace nybble::cli {

namespace {

struct Options {
  LayerFiles files;
  std::string activations, csv, out_json, chart;
  std::vector<std::string> formats = {
      "int4:group=128", "int4:group=32", "int4:group=32,zero_point=true", "nf4", "mxfp4",
      "nvfp4",          "amxfp4"};
  std::vector<std::string> methods = {"rtn", "clip", "gptq", "awq+gptq"};
  std::size_t threads = 0;
  bool json = false;
};

struct Sweep {
  std::size_t rows = 0, cols = 0;
  std::vector<std::string> formats, methods;  ///< in full
  std::string activations;                    ///< empty: not quantized
  bool on_test = false;                       ///< else on the calibration inputs
  std::vector<LayerScore> scores;             ///< formats x methods

  [[nodiscard]] const LayerScore& score(std::size_t format, std::size_t method) const {
    return scores[format * methods.size() + method];
  }
  /// The output SQNR that tables and charts show.
  [[nodiscard]] double sqnr_db(const LayerScore& score) const {
    return on_test ? *score.sqnr_test_db : *score.sqnr_calibration_db;
  }
  [[nodiscard]] std::string about() const {
    return fmt::format("Weights {} x {}, measured on the {} inputs{}.", rows, cols,
                       on_test ? "test" : "calibration",
                       activations.empty() ? "" : fmt::format(" in {}", activations));
  }
};

/// What is being computed, on stderr; nothing where that is no terminal.
class Progress {
 public:
  explicit Progress(std::size_t total) : total_(total), visible_(isatty(STDERR_FILENO) == 1) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { clear(); }

  void begin(const std::string& what) {
    ++begun_;
    if (!visible_) return;
    clear();
    fmt::print(stderr, "{}/{} {}", begun_, total_, what);
    std::fflush(stderr);
  }

 private:
  void clear() const {
    if (visible_) fmt::print(stderr, "\r\033[K");
  }

  std::size_t total_;
  std::size_t begun_ = 0;
  bool visible_;
};

void refuse_repeated(const char* option, std::vector<std::string> specs) {
  std::sort(specs.begin(), specs.end());
  const auto repeated = std::adjacent_find(specs.begin(), specs.end());
  if (repeated == specs.end()) return;
  throw Error(ErrorCode::bad_option, fmt::format("{}: '{}' given twice", option, *repeated));
}

/// Runs every method on every format. Throws what they throw, naming which.
Sweep run_all(const Options& options, const std::vector<AnyFormat>& formats,
              const std::vector<Method>& methods, const std::optional<AnyFormat>& activations) {
  Sweep sweep;
  for (const AnyFormat& format : formats) sweep.formats.push_back(format.info().spec);
  for (const Method& method : methods) sweep.methods.push_back(method.spec());
  refuse_repeated("--format", sweep.formats);
  refuse_repeated("--method", sweep.methods);
  if (activations) sweep.activations = activations->info().spec;

  const std::unique_ptr<Executor> executor = make_thread_executor(options.threads);
  const LayerProblem problem = read_problem(options.files, *executor);
  sweep.rows = problem.weight.rows;
  sweep.cols = problem.weight.cols;
  sweep.on_test = problem.test_inputs.has_value();
  Progress progress(formats.size() * methods.size());
  for (std::size_t f = 0; f < formats.size(); ++f) {
    for (std::size_t m = 0; m < methods.size(); ++m) {
      const std::string which =
          fmt::format("format '{}', method '{}'", sweep.formats[f], sweep.methods[m]);
      progress.begin(which);
      try {
        const QuantizedLayer layer =
            quantize_layer(problem.weight.view(), formats[f], methods[m],
                           problem.calibration ? &*problem.calibration : nullptr, *executor,
                           {options.files.weights, activations});
        sweep.scores.push_back(score(problem, layer, activations, *executor));
      } catch (const Error& error) {
        throw Error(error.code(), fmt::format("{}: {}", which, error.what()));
      }
    }
  }
  return sweep;
}

std::string table(const Sweep& sweep) {
  std::size_t width = 6;
  for (const std::string& format : sweep.formats) width = std::max(width, format.size());
  std::string out =
      fmt::format("Output SQNR in dB. {}\n\n{:<{}}  {:>6}", sweep.about(), "format", width, "bits");
  constexpr std::size_t kNumber = 6;
  for (const std::string& method : sweep.methods) {
    out += fmt::format("  {:>{}}", method, std::max(kNumber, method.size()));
  }
  out += '\n';
  for (std::size_t f = 0; f < sweep.formats.size(); ++f) {
    out +=
        fmt::format("{:<{}}  {:>6.3f}", sweep.formats[f], width, sweep.score(f, 0).bits_per_weight);
    for (std::size_t m = 0; m < sweep.methods.size(); ++m) {
      out += fmt::format("  {:>{}.2f}", sweep.sqnr_db(sweep.score(f, m)),
                         std::max(kNumber, sweep.methods[m].size()));
    }
    out += '\n';
  }
  return out;
}

Json json_of(const Sweep& sweep) {
  const auto number = [](const std::optional<double>& value) {
    return value ? Json(*value) : Json();
  };
  Json results = Json::array();
  for (std::size_t f = 0; f < sweep.formats.size(); ++f) {
    for (std::size_t m = 0; m < sweep.methods.size(); ++m) {
      const LayerScore& score = sweep.score(f, m);
      results.push_back({{"format", sweep.formats[f]},
                         {"method", sweep.methods[m]},
                         {"bits_per_weight", score.bits_per_weight},
                         {"weight_sqnr_db", score.weight_sqnr_db},
                         {"sqnr_calibration_db", number(score.sqnr_calibration_db)},
                         {"sqnr_test_db", number(score.sqnr_test_db)},
                         {"seconds", score.seconds}});
    }
  }
  return {{"rows", sweep.rows},
          {"cols", sweep.cols},
          {"activations", sweep.activations.empty() ? Json() : Json(sweep.activations)},
          {"results", std::move(results)}};
}

/// A line each result, columns as the keys of the JSON; specs are quoted, they hold commas.
std::string csv(const Sweep& sweep) {
  const auto number = [](const std::optional<double>& value) {
    return value ? fmt::format("{}", *value) : std::string();
  };
  std::string out =
      "format,method,bits_per_weight,weight_sqnr_db,sqnr_calibration_db,sqnr_test_db,seconds\n";
  for (std::size_t f = 0; f < sweep.formats.size(); ++f) {
    for (std::size_t m = 0; m < sweep.methods.size(); ++m) {
      const LayerScore& score = sweep.score(f, m);
      out +=
          fmt::format("\"{}\",\"{}\",{},{},{},{},{}\n", sweep.formats[f], sweep.methods[m],
                      score.bits_per_weight, score.weight_sqnr_db,
                      number(score.sqnr_calibration_db), number(score.sqnr_test_db), score.seconds);
    }
  }
  return out;
}

std::string svg(const Sweep& sweep) {
  SweepChart chart{sweep.about() + " Higher is better.", sweep.formats, sweep.methods, {}, {}};
  for (std::size_t f = 0; f < sweep.formats.size(); ++f) {
    chart.bits.push_back(sweep.score(f, 0).bits_per_weight);
  }
  for (const LayerScore& score : sweep.scores) chart.sqnr_db.push_back(sweep.sqnr_db(score));
  return draw(chart);
}

void write_text(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

void run(const Options& options) {
  std::vector<AnyFormat> formats;
  for (const std::string& spec : options.formats) formats.push_back(parse_format(spec));
  std::vector<Method> methods;
  for (const std::string& spec : options.methods) methods.emplace_back(spec);
  const std::optional<AnyFormat> activations = parse_activations(options.activations);
  for (const Method& method : methods) check_files(method, options.files);
  if (options.files.calibration.empty() && options.files.test.empty()) {
    throw Error(ErrorCode::bad_option,
                "sweep: nothing to measure on, expected --calibration X.npy "
                "or --test T.npy");
  }
  check_writable({options.csv, options.out_json, options.chart}, options.files.names());
  const Sweep sweep = run_all(options, formats, methods, activations);
  if (!options.csv.empty()) write_text(options.csv, csv(sweep));
  if (!options.out_json.empty()) write_text(options.out_json, json_of(sweep).dump() + '\n');
  if (!options.chart.empty()) write_text(options.chart, svg(sweep));
  if (options.json) return print_json(json_of(sweep));
  fmt::print("{}", table(sweep));
}

}  // namespace

void add_sweep_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand(
      "sweep", "Quantize one linear layer to several formats by several methods and compare them");
  add_layer_files(command, options->files);
  command
      .add_option("--format,--formats", options->formats,
                  "Formats of the weights (see `nybble formats`); may be given several times, or "
                  "several with ';' between them")
      ->delimiter(';')
      ->capture_default_str();
  command
      .add_option("--method,--methods", options->methods,
                  "How to quantize (see `nybble layer --help`); several as formats are")
      ->delimiter(';')
      ->capture_default_str();
  command.add_option("--activations", options->activations,
                     "Format of the inputs (default: not quantized)");
  command.add_option("--csv", options->csv, "Write a line each result, keys as in the JSON");
  command.add_option("--out-json", options->out_json, "Write what --json prints");
  command.add_option("--chart", options->chart, "Write an SVG: SQNR against bits per weight");
  add_threads_option(command, options->threads);
  add_json_option(command, options->json);
  command.callback([options] { run(*options); });
}

}  // namespace nybble::cli
