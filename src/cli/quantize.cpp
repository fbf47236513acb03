#include <fmt/format.h>
#include <fmt/ranges.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "commands.h"
#include "interrupt.h"
#include "nybble/error.h"
#include "nybble/io/quantized_checkpoint.h"
#include "nybble/quantize/checkpoint.h"
#include "output.h"
#include "process_group.h"
#include "progress.h"

namespace nybble::cli {

namespace {

struct Options {
  CheckpointOptions checkpoint;
  std::string recipe, out;
  std::vector<std::string> rules;
  std::size_t threads = 0;
  bool dry_run = false;
  bool resume = false;
  bool json = false;
};

/// Tensor after tensor needs blocks of the same sizes. Given back to the system each time, their
/// pages would have to be cleared again: a fifth of all time with round to nearest.
void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kLargest = 32 << 20;  // the most it takes: larger ones are always given back
  ::mallopt(M_MMAP_THRESHOLD, kLargest);
  ::mallopt(M_TRIM_THRESHOLD, 4 * kLargest);
#endif
}

/// Replaces "2GB" by the number of bytes; returns what is wrong with it otherwise. CLI11's own
/// AsSizeValue lets numbers below 0 and beyond 2^64 wrap.
std::string read_size(std::string& text) {
  constexpr std::pair<std::string_view, std::size_t> kUnits[] = {{"", 1},
                                                                 {"b", 1},
                                                                 {"k", 1'000},
                                                                 {"kb", 1'000},
                                                                 {"m", 1'000'000},
                                                                 {"mb", 1'000'000},
                                                                 {"g", 1'000'000'000},
                                                                 {"gb", 1'000'000'000},
                                                                 {"t", 1'000'000'000'000},
                                                                 {"tb", 1'000'000'000'000},
                                                                 {"kib", std::size_t{1} << 10},
                                                                 {"mib", std::size_t{1} << 20},
                                                                 {"gib", std::size_t{1} << 30},
                                                                 {"tib", std::size_t{1} << 40}};
  std::size_t count = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, count);
  const std::string unit = CLI::detail::to_lower(CLI::detail::trim_copy(std::string(stop, end)));
  const auto* const found = std::find_if(std::begin(kUnits), std::end(kUnits),
                                         [&](const auto& row) { return row.first == unit; });
  if (error != std::errc() || found == std::end(kUnits) || count == 0 ||
      count > std::numeric_limits<std::size_t>::max() / found->second) {
    return fmt::format(
        "'{}': expected a whole number of bytes from 1 to 2^64 - 1, such as 500MB, "
        "2GB or 2GiB",
        text);
  }
  text = fmt::format("{}", count * found->second);
  return {};
}

double bits_per_weight(std::size_t bytes, std::size_t weights) {
  return weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

/// Sums over a plan.
struct Totals {
  std::size_t quantized = 0, weights = 0, weight_bytes = 0, source_bytes = 0, file_bytes = 0;

  explicit Totals(const CheckpointPlan& plan) {
    for (const PlannedTensor& tensor : plan.tensors()) {
      source_bytes += tensor.source_bytes;
      if (!tensor.format) continue;
      ++quantized;
      weights += tensor.elements();
      weight_bytes += tensor.bytes;
    }
    for (const PlannedFile& file : plan.files()) file_bytes += file.bytes;
  }
};

/// What stays as it was, as shares of all parameters.
struct Kept {
  double share = 0;
  std::vector<std::pair<std::string, double>> reasons;  ///< the largest first

  explicit Kept(const CheckpointPlan& plan) {
    std::size_t all = 0;
    std::map<std::string, std::size_t> counts;
    for (const PlannedTensor& tensor : plan.tensors()) {
      all += tensor.elements();
      if (!tensor.format) counts[tensor.reason] += tensor.elements();
    }
    for (const auto& [reason, count] : counts) {
      if (count == 0) continue;
      reasons.emplace_back(reason, static_cast<double>(count) / static_cast<double>(all));
      share += reasons.back().second;
    }
    std::stable_sort(reasons.begin(), reasons.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
  }

  /// "12.5 % of the parameters stay as they were (9.1 % 3-D, 3.4 % embedding)".
  [[nodiscard]] std::string text() const {
    constexpr std::size_t kNamed = 3;
    std::vector<std::string> named;
    for (const auto& [reason, part] : reasons) {
      if (named.size() == kNamed) {
        named.emplace_back("...");
        break;
      }
      named.push_back(fmt::format("{} {}", percent(part), reason));
    }
    return fmt::format("{} of the parameters stay as they were{}", percent(share),
                       named.empty() ? "" : fmt::format(" ({})", fmt::join(named, ", ")));
  }
  void add_to(Json& json) const {
    json["copied_share"] = share;
    json["copied_because"] = Json::object();
    for (const auto& [reason, part] : reasons) json["copied_because"][reason] = part;
  }

 private:
  static std::string percent(double part) { return fmt::format("{:.3g} %", 100 * part); }
};

void print_plan_json(const CheckpointPlan& plan) {
  const Totals totals(plan);
  Json json;
  json["tensors"] = Json::array();
  for (const PlannedTensor& tensor : plan.tensors()) {
    Json& row = json["tensors"].emplace_back();
    row["name"] = tensor.name;
    row["type"] = tensor.type;
    row["shape"] = tensor.shape;
    row["format"] = tensor.format ? Json(tensor.format->info().spec) : Json();
    row["method"] = tensor.format ? Json(tensor.method) : Json();
    row["copied_because"] = tensor.format ? Json() : Json(tensor.reason);
    row["source_bytes"] = tensor.source_bytes;
    row["bytes"] = tensor.bytes;
    row["bits_per_weight"] = tensor.bits_per_weight();
    row["exact"] = tensor.exact;
    row["transposed"] = tensor.transposed;
  }
  json["files"] = Json::array();
  for (const PlannedFile& file : plan.files()) {
    json["files"].push_back({{"name", file.name}, {"bytes", file.bytes}});
  }
  json["not_copied"] = Json::array();
  for (const KeptOutFile& file : plan.kept_out()) {
    json["not_copied"].push_back({{"name", file.name}, {"reason", file.reason}});
  }
  json["quantized"] = totals.quantized;
  json["weights"] = totals.weights;
  json["bits_per_weight"] = bits_per_weight(totals.weight_bytes, totals.weights);
  json["source_bytes"] = totals.source_bytes;
  json["bytes"] = totals.file_bytes;
  json["exact"] = plan.exact();
  Kept(plan).add_to(json);
  print_json(json);
}

void print_plan_text(const CheckpointPlan& plan) {
  std::vector<std::vector<std::string>> rows = {
      {"tensor", "shape", "format", "method", "bytes", "bits/weight"}};
  for (const PlannedTensor& tensor : plan.tensors()) {
    rows.push_back(
        {one_line(tensor.name),
         fmt::format("{}{}", fmt::join(tensor.shape, " x "),
                     tensor.transposed ? " transposed" : ""),
         tensor.format ? tensor.format->info().spec : fmt::format("copied: {}", tensor.reason),
         tensor.method, fmt::format("{}{}", tensor.exact ? "" : "at least ", tensor.bytes),
         fmt::format("{:.3f}", tensor.bits_per_weight())});
  }
  std::vector<std::size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows) {
    fmt::print("{:<{}}  {:<{}}  {:<{}}  {:<{}}  {:>{}}  {:>{}}\n", row[0], widths[0], row[1],
               widths[1], row[2], widths[2], row[3], widths[3], row[4], widths[4], row[5],
               widths[5]);
  }
  const char* const least = plan.exact() ? "" : "at least ";
  fmt::print("\n");
  for (const PlannedFile& file : plan.files()) {
    fmt::print("{}: {}{} bytes\n", one_line(file.name), least, file.bytes);
  }
  for (const KeptOutFile& file : plan.kept_out()) {
    fmt::print("{}: not copied: {}\n", one_line(file.name), file.reason);
  }
  const Totals totals(plan);
  fmt::print(
      "\n{} of {} tensors quantized, {} weights at {}{:.3f} bits; {} of tensors become {}{} "
      "of files; {}\n",
      totals.quantized, plan.tensors().size(), totals.weights, least,
      bits_per_weight(totals.weight_bytes, totals.weights),
      bytes_text(static_cast<double>(totals.source_bytes)), least,
      bytes_text(static_cast<double>(totals.file_bytes)), Kept(plan).text());
}

/// One JSON object a line, at once.
void print_event(const Json& event) {
  print_json(event);
  std::fflush(stdout);
}

void print_start(const Options& options, const CheckpointPlan& plan, std::size_t processes,
                 std::size_t threads) {
  const Totals totals(plan);
  Json event;
  event["event"] = "start";
  event["source"] = options.checkpoint.source.string();
  event["out"] = options.out;
  event["layout"] = options.checkpoint.layout;
  event["tensors"] = plan.tensors().size();
  event["quantized"] = totals.quantized;
  event["source_bytes"] = totals.source_bytes;
  event["bytes"] = totals.file_bytes;
  event["exact"] = plan.exact();
  event["processes"] = processes;
  event["threads"] = threads;
  print_event(event);
}

void print_tensor(const TensorDone& done) {
  const PlannedTensor& tensor = *done.tensor;
  Json event;
  event["event"] = "tensor";
  event["name"] = tensor.name;
  event["format"] = tensor.format ? Json(tensor.format->info().spec) : Json();
  event["method"] = tensor.format ? Json(tensor.method) : Json();
  event["seconds"] = done.seconds;
  event["weight_sqnr_db"] = done.sqnr_db;
  event["bits_per_weight"] = bits_per_weight(done.bytes, tensor.elements());
  event["bytes"] = done.bytes;
  print_event(event);
}

void print_done(const Options& options, const CheckpointPlan& plan,
                const CheckpointReport& report) {
  const double rate = static_cast<double>(report.processed_bytes) / std::max(report.seconds, 1e-9);
  const double bits = bits_per_weight(report.weight_bytes, report.weights);
  if (options.json) {
    Json event;
    event["event"] = "done";
    event["tensors"] = report.tensors;
    event["quantized"] = report.quantized;
    event["resumed"] = report.resumed;
    event["weights"] = report.weights;
    event["bits_per_weight"] = bits;
    event["weight_sqnr_db"] = report.sqnr_db;
    event["source_bytes"] = report.source_bytes;
    event["bytes"] = report.bytes;
    event["seconds"] = report.seconds;
    event["bytes_per_second"] = rate;
    event["peak_bytes"] = peak_bytes();
    Kept(plan).add_to(event);
    print_event(event);
    return;
  }
  // Nobody knows it any more where an earlier run had finished.
  const std::string sqnr =
      std::isnan(report.sqnr_db) ? "" : fmt::format(", SQNR {:.2f} dB", report.sqnr_db);
  fmt::print(
      "{}: {} of {} tensors quantized{}, {} weights at {:.3f} bits{}; {} in {:.1f} s ({}/s), peak "
      "memory {}; {}\n",
      options.out, report.quantized, report.tensors,
      report.resumed == 0 ? "" : fmt::format(" ({} done before)", report.resumed), report.weights,
      bits, sqnr, bytes_text(static_cast<double>(report.bytes)), report.seconds, bytes_text(rate),
      bytes_text(static_cast<double>(peak_bytes())), Kept(plan).text());
}

CheckpointReport run_plan(const Options& options, const CheckpointPlan& plan, CommandGroup& group) {
  const InterruptHandler handler;
  keep_freed_memory();
  const std::unique_ptr<Executor> executor = make_thread_executor(options.threads);
  const bool first = group.rank() == 0;
  if (options.json && first) print_start(options, plan, group.size(), executor->concurrency());
  Progress progress(first && !options.json);
  RunOptions run;
  run.out = options.out;
  run.resume = options.resume;
  run.cancel = &handler.flag();
  run.group = &group;
  run.on_tensor = [&](const TensorDone& done) {
    if (options.json) print_tensor(done);
    progress.show(done.done, done.total, done.done_bytes, done.total_bytes);
  };
  try {
    return quantize_checkpoint(plan, *executor, run);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::cancelled) throw;
    throw Error(ErrorCode::cancelled,
                fmt::format("interrupted: {} keeps what is done, --resume continues", options.out));
  }
}

void run(Options options) {
  if (options.out.empty() && !options.dry_run) {
    throw Error(ErrorCode::bad_option, "--out is required, or --dry-run");
  }
  if (options.checkpoint.layout == "gguf") {
    throw Error(ErrorCode::bad_option,
                "--layout gguf: quantize writes safetensors, expected another layout and then "
                "`nybble convert --layout gguf --out F.gguf`, or `llama quantize --out F.gguf`, "
                "which also gives tensors the names that llama.cpp knows");
  }
  const std::unique_ptr<CommandGroup> group = make_command_group();
  try {
    if (!options.recipe.empty()) options.checkpoint.rules = read_recipe(options.recipe);
    for (const std::string& rule : options.rules) {
      options.checkpoint.rules.push_back(parse_rule(rule));
    }
    if (group->rank() == 0) warn_ignored_index(options.checkpoint.source.string());
    const CheckpointPlan plan(options.checkpoint);
    if (!options.dry_run) {
      const CheckpointReport report = run_plan(options, plan, *group);
      if (group->rank() == 0) print_done(options, plan, report);
    } else if (group->rank() == 0) {
      options.json ? print_plan_json(plan) : print_plan_text(plan);
    }
  } catch (const std::exception& error) {
    if (group->size() > 1) {
      fmt::print(stderr, "nybble: process {}: {}\n", group->rank(), error_text(error));
      std::fflush(stderr);
      group->abort(exit_code(error));
    }
    throw;
  }
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "quantize", "Quantize a model: a folder of .safetensors files, tensor by tensor");
  command->add_option("model", options->checkpoint.source, "folder, or a .safetensors file")
      ->required();
  command->add_option("--format", options->checkpoint.format, "format of the weights")->required();
  command->add_option("--method", options->checkpoint.method, "how to quantize, see `nybble layer`")
      ->capture_default_str();
  command->add_option("--recipe", options->recipe,
                      "JSON list of rules: {\"match\": GLOB, \"format\": SPEC, \"method\": M, "
                      "\"transposed\": true} or {\"match\": GLOB, \"skip\": true}; later ones win");
  command
      ->add_option("--rule", options->rules,
                   "GLOB=FORMAT, GLOB=FORMAT/METHOD, GLOB=transposed=true (weights stored inputs x "
                   "outputs) or GLOB=skip, after the recipe's; repeatable")
      ->allow_extra_args(false);
  command->add_option("--calibration", options->checkpoint.calibration,
                      "inputs of the layers, tokens x K: .safetensors with a tensor a layer, or a "
                      "folder of LAYER.npy");
  command
      ->add_option("--layout", options->checkpoint.layout,
                   fmt::format("layout to write: {}", fmt::join(layout_names(), ", ")))
      ->capture_default_str();
  command->add_option("--out", options->out, "folder to write");
  command
      ->add_option("--shard-size", options->checkpoint.shard_bytes,
                   "most bytes of tensors a file, e.g. 2GB")
      ->transform(CLI::Validator(read_size, "SIZE"))
      ->capture_default_str();
  command->add_flag("--dry-run", options->dry_run, "Only say what would be written");
  command->add_flag("--resume", options->resume, "Continue a run that did not end");
  add_threads_option(*command, options->threads);
  add_json_option(*command, options->json);
  command->footer(
      "Copied unless a rule says otherwise: embeddings, output heads, norms, routers, and "
      "anything\n"
      "but matrices of 32 rows and columns or more and experts stacked as [E, N, K].\n"
      "Example: nybble quantize MODEL --format int4:group=128 --rule '*.down_proj=nvfp4' --out "
      "OUT");
  command->callback([options] { run(*options); });
}

}  // namespace nybble::cli
