#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint_numbers.h"
#include "commands.h"
#include "nybble/error.h"
#include "output.h"
#include "text_table.h"

namespace nybble::cli {

namespace {

struct Options {
  CheckpointArguments checkpoint;
  std::string glob;
  std::size_t threads = 0;
  bool json = false;
};

struct Numbers {
  std::vector<std::string> reasons;
  std::vector<LayerNumbers> layers;
  std::vector<TensorNumbers> tensors;
  CheckpointTotals totals;
};

/// One tensor in memory at a time. Throws bad_option where the glob matches nothing.
Numbers measure_all(const Options& options, Executor& executor) {
  warn_ignored_index(options.checkpoint.path);
  const QuantizedCheckpoint checkpoint(options.checkpoint.path, options.checkpoint.layout);
  const auto wanted = [&](const std::string& name) {
    return options.glob.empty() || fnmatch(options.glob.c_str(), name.c_str(), 0) == 0;
  };
  Numbers out;
  out.reasons = checkpoint.reasons();
  for (const auto& entry : checkpoint.layers()) {
    if (!wanted(entry.name)) continue;
    out.layers.push_back(measure(checkpoint.read(entry.name), entry, executor));
    out.totals.add(out.layers.back());
  }
  for (const auto& entry : checkpoint.tensors()) {
    if (!wanted(entry.name)) continue;
    out.tensors.push_back(measure(checkpoint, entry, executor));
    out.totals.add(out.tensors.back());
  }
  if (!options.glob.empty() && out.layers.empty() && out.tensors.empty()) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--layer {}: matches none of the {} layers and {} tensors of {}",
                            options.glob, checkpoint.layers().size(), checkpoint.tensors().size(),
                            options.checkpoint.path));
  }
  out.totals.file_bytes = file_bytes(checkpoint);
  return out;
}

std::string number(float value) { return fmt::format("{:.4g}", value); }

/// Smallest and largest finite value, "-" where there is none.
std::vector<std::string> range_cells(const ValueStatistics& values) {
  if (values.finite() == 0) return {"-", "-"};
  return {number(values.smallest), number(values.largest)};
}

void print_layers(const std::vector<LayerNumbers>& layers) {
  if (layers.empty()) return;
  TextTable table(
      {"layer", "layout", "format", "shape", "bits", "scale min", "scale max", "nan", "inf"}, 4);
  for (const LayerNumbers& layer : layers) {
    const ValueStatistics& scales = layer.statistics.scales;
    const std::vector<std::string> range = range_cells(scales);
    table.add({printable(layer.entry.name), layer.entry.layout, layer.format.spec,
               shape_text(layer.entry.shape), fmt::format("{:.3f}", layer.bits_per_weight),
               range[0], range[1], fmt::format("{}", scales.nan), fmt::format("{}", scales.inf)});
  }
  fmt::print("\n{}", table.text());
}

void print_tensors(const std::vector<TensorNumbers>& tensors) {
  if (tensors.empty()) return;
  TextTable table({"tensor", "type", "shape", "min", "max", "nan", "inf"}, 3);
  for (const TensorNumbers& tensor : tensors) {
    std::vector<std::string> row = {printable(tensor.entry.name), tensor.entry.type,
                                    shape_text(tensor.entry.shape)};
    if (tensor.values) {
      const std::vector<std::string> range = range_cells(*tensor.values);
      row.insert(row.end(), {range[0], range[1], fmt::format("{}", tensor.values->nan),
                             fmt::format("{}", tensor.values->inf)});
    } else {
      row.insert(row.end(), {"-", "-", "-", "-"});
    }
    table.add(std::move(row));
  }
  fmt::print("\n{}", table.text());
}

void print_line(const char* name, const std::string& value) {
  fmt::print("  {:<12} {}\n", name, value);
}

void print_counts(const char* name, const ValueStatistics& values) {
  const std::vector<std::string> range = range_cells(values);
  print_line(name,
             fmt::format("{} from {} to {}; {} nan, {} inf, {} zero, {} negative, {} denormal",
                         values.count, range[0], range[1], values.nan, values.inf, values.zero,
                         values.negative, values.denormal));
}

struct Bar {
  std::string label;
  std::size_t count;
};

/// The longest bar is as wide as the terminal leaves room for.
void print_bars(const char* title, const std::vector<Bar>& bars) {
  constexpr double kWidth = 40;
  std::size_t most = 1;
  std::size_t total = 0;
  for (const Bar& bar : bars) {
    most = std::max(most, bar.count);
    total += bar.count;
  }
  fmt::print("  {}\n", title);
  for (const Bar& bar : bars) {
    const double share = static_cast<double>(bar.count) / static_cast<double>(most);
    fmt::print("  {:>12} {:<40} {:5.1f} %\n", bar.label,
               std::string(static_cast<std::size_t>(kWidth * share + 0.5), '#'),
               100 * static_cast<double>(bar.count) /
                   static_cast<double>(std::max<std::size_t>(total, 1)));
  }
}

void print_details(const LayerNumbers& layer) {
  const QuantizedStatistics& statistics = layer.statistics;
  fmt::print("\n{}\n", printable(layer.entry.name));
  print_line("layout", layer.entry.layout);
  print_line("format", layer.format.spec);
  print_line("shape", shape_text(layer.entry.shape));
  print_line("bits", fmt::format("{:.3f} per weight", layer.bits_per_weight));
  if (layer.tensor_scale) print_line("tensor scale", fmt::format("{}", *layer.tensor_scale));
  if (!layer.transforms.empty()) {
    print_line("transforms", fmt::format("{}", fmt::join(layer.transforms, ", ")));
  }
  print_counts("scales", statistics.scales);
  print_line("ends", fmt::format("{:.2f} % of codes are the largest or the smallest level",
                                 100 * static_cast<double>(statistics.end_codes) /
                                     static_cast<double>(statistics.elements())));
  std::vector<Bar> codes;
  std::vector<Bar> octaves;
  std::vector<Bar> zero_points;
  for (std::size_t code = 0; code < 16; ++code) {
    codes.push_back(
        {fmt::format("{:>2}: {:6.3g}", code, layer.format.levels[code]), statistics.codes[code]});
    zero_points.push_back({fmt::format("{}", code), statistics.zero_points[code]});
  }
  for (const auto& [octave, count] : statistics.scales.octaves) {
    octaves.push_back({fmt::format("2^{}", octave), count});
  }
  print_bars("codes and their levels", codes);
  print_bars("scales by their power of two", octaves);
  if (layer.format.layout == ScaleLayout::zero_point) print_bars("zero points", zero_points);
}

void print_details(const TensorNumbers& tensor) {
  fmt::print("\n{}\n", printable(tensor.entry.name));
  print_line("type", tensor.entry.type);
  print_line("shape", shape_text(tensor.entry.shape));
  if (tensor.values) print_counts("values", *tensor.values);
}

void print_text(const Options& options, const Numbers& numbers) {
  for (const std::string& reason : numbers.reasons) fmt::print("{}\n", printable(reason));
  if (numbers.reasons.empty()) fmt::print("no quantized layers\n");
  if (options.glob.empty()) {
    print_layers(numbers.layers);
    print_tensors(numbers.tensors);
  } else {
    for (const LayerNumbers& layer : numbers.layers) print_details(layer);
    for (const TensorNumbers& tensor : numbers.tensors) print_details(tensor);
  }
  const CheckpointTotals& totals = numbers.totals;
  fmt::print("\n");
  if (totals.layers != 0) {
    fmt::print("{} quantized layers: {} weights, {:.3f} bits each\n", totals.layers, totals.weights,
               totals.bits_per_weight());
  }
  fmt::print("{} other tensors: {} values\n", totals.tensors, totals.values);
  fmt::print("{} NaN, {} Inf; {:.1f} MB on disk\n", totals.nan, totals.inf,
             static_cast<double>(totals.file_bytes) / 1e6);
}

void print_json(const Options& options, const Numbers& numbers) {
  Json layers = Json::array();
  for (const LayerNumbers& layer : numbers.layers) layers.push_back(json_of(layer));
  Json tensors = Json::array();
  for (const TensorNumbers& tensor : numbers.tensors) tensors.push_back(json_of(tensor));
  cli::print_json({{"path", options.checkpoint.path},
                   {"reasons", numbers.reasons},
                   {"layers", std::move(layers)},
                   {"tensors", std::move(tensors)},
                   {"totals", json_of(numbers.totals)}});
}

void run(const Options& options) {
  const std::unique_ptr<Executor> executor = make_thread_executor(options.threads);
  const Numbers numbers = measure_all(options, *executor);
  if (options.json) return print_json(options, numbers);
  print_text(options, numbers);
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand(
      "inspect", "What a checkpoint holds: layouts, formats, shapes, codes, scales, NaN and Inf");
  add_checkpoint_arguments(command, options->checkpoint);
  command.add_option("--layer", options->glob,
                     "Only layers and tensors whose names match this glob, each in detail");
  add_threads_option(command, options->threads);
  add_json_option(command, options->json);
  command.callback([options] { run(*options); });
}

}  // namespace nybble::cli
