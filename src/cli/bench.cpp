#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "commands.h"
#include "linear_bench.h"
#include "nybble/error.h"
#include "nybble/executor.h"
#include "nybble/format/registry.h"
#include "output.h"

namespace nybble::cli {

namespace {

struct Options {
  std::size_t n = 4096;
  std::size_t k = 4096;
  std::vector<std::size_t> m = {1};
  std::vector<std::string> formats;
  std::vector<std::string> paths = {"a8"};
  std::string activations;
  std::vector<std::string> targets;
  bool per_row_scales = false;
  bool hot = false;
  std::size_t threads = 0;
  double seconds = 1;
  bool json = false;
};

/// An option that belongs to one path is for the cases of that path; there must be one.
void check_path_option(const Options& options, const char* option, Path path) {
  for (const std::string& name : options.paths) {
    if (parse_path(name) == path) return;
  }
  throw Error(ErrorCode::bad_option, fmt::format("{} goes with path {}, not {}", option,
                                                 path_name(path), fmt::join(options.paths, ",")));
}

constexpr const char* kChosen = "chosen";

/// The targets asked for; "" is what is chosen here.
std::vector<std::string> targets_of(const Options& options) {
  if (options.targets.empty()) return {""};
  std::vector<std::string> out;
  for (const std::string& target : options.targets) out.push_back(target == kChosen ? "" : target);
  return out;
}

LinearBench bench_of(const Options& options) {
  if (options.per_row_scales) check_path_option(options, "--per-row-scales", Path::a8);
  if (!options.activations.empty()) check_path_option(options, "--activations", Path::a4);
  LinearBench bench{.n = options.n,
                    .k = options.k,
                    .m = options.m,
                    .cases = {},
                    .cold = !options.hot,
                    .min_seconds = options.seconds};
  const std::vector<std::string> targets = targets_of(options);
  for (const std::string& format : options.formats) {
    for (const std::string& path : options.paths) {
      for (const std::string& target : targets) {
        LinearCase& added = bench.cases.emplace_back(LinearCase{parse_format(format), {}});
        added.options.path = parse_path(path);
        added.options.target = target;
        added.options.scale_per_row = options.per_row_scales && added.options.path == Path::a8;
        if (!options.activations.empty() && added.options.path == Path::a4) {
          added.options.activations = parse_format(options.activations);
        }
      }
    }
  }
  return bench;
}

/// A result in the units that are printed.
struct Figures {
  double microseconds, p10, p90, gflops, weight_gbps, roofline_share;

  explicit Figures(const LinearBenchResult& result)
      : microseconds(result.seconds * 1e6),
        p10(result.seconds_p10 * 1e6),
        p90(result.seconds_p90 * 1e6),
        gflops(result.operations / result.seconds / 1e9),
        weight_gbps(static_cast<double>(result.packed_bytes) / result.seconds / 1e9),
        roofline_share(result.roofline_seconds / result.seconds) {}
};

Json json_of(const LinearBench& bench, const LinearBenchResult& result, std::size_t threads) {
  const Figures figures(result);
  return {{"kernel", result.kernel},
          {"seconds", result.seconds},
          {"gflops", figures.gflops},
          {"weight_gbps", figures.weight_gbps},
          {"roofline_share", figures.roofline_share},
          {"dram_gbps", result.read_gbps},
          {"peak_gops", result.peak_gops},
          {"relative_error", result.relative_error},
          {"n", bench.n},
          {"k", bench.k},
          {"m", result.m},
          {"format", result.format},
          {"path", path_name(result.path)},
          {"threads", threads},
          {"target", result.target},
          {"forced", result.forced},
          {"best_share", result.best_share},
          {"cold", bench.cold}};
}

constexpr const char* kFewCopies =
    ", half of the free memory: less than 8 times the last-level cache";

std::string threads_text(std::size_t threads) {
  return fmt::format("{} thread{}", threads, threads == 1 ? "" : "s");
}

void print_one(const LinearBench& bench, const LinearBenchResult& result, std::size_t threads) {
  const Figures figures(result);
  fmt::print("kernel          {} (target {}, {})\n", result.kernel, result.target,
             threads_text(threads));
  fmt::print("layer           n = {}, k = {}, m = {}, {} on path {}, {:.2f} MB packed\n", bench.n,
             bench.k, result.m, result.format, path_name(result.path),
             static_cast<double>(result.packed_bytes) / 1e6);
  if (bench.cold) {
    fmt::print("weights         cold: {} copies in turn{}\n", result.copies,
               result.enough_copies ? "" : kFewCopies);
  } else {
    fmt::print("weights         hot: one copy\n");
  }
  fmt::print("time            {:.2f} us, p10 {:.2f}, p90 {:.2f} ({} repetitions)\n",
             figures.microseconds, figures.p10, figures.p90, result.repetitions);
  fmt::print("arithmetic      {:.1f} GOP/s of {:.1f}\n", figures.gflops, result.peak_gops);
  fmt::print("weight reading  {:.1f} GB/s of {:.1f}\n", figures.weight_gbps, result.read_gbps);
  fmt::print("roofline share  {:.1f} %\n", 100 * figures.roofline_share);
  fmt::print("relative error  {:.5f}\n", result.relative_error);
}

std::string target_text(const LinearBenchResult& result) {
  return result.forced ? result.target : kChosen;
}

/// A row each; the limits that their shares are of come once, below.
void print_table(const LinearBench& bench, const std::vector<LinearBenchResult>& results,
                 std::size_t threads) {
  std::size_t width = 6;
  std::set<std::string> limits, targets;
  bool enough_copies = true;
  for (const LinearBenchResult& result : results) {
    width = std::max(width, result.format.size());
    targets.insert(target_text(result));
    limits.insert(
        fmt::format("{:.1f} GB/s from {}", result.read_gbps, limits::level_name(result.level)));
    limits.insert(fmt::format("{:.1f} GOP/s in {}", result.peak_gops,
                              limits::arithmetic_name(result.arithmetic)));
    enough_copies = enough_copies && result.enough_copies;
  }
  const bool several = targets.size() > 1;
  fmt::print("n = {}, k = {}, target{} {}, {}, weights {}{}\n\n", bench.n, bench.k,
             several ? "s" : "",
             several ? fmt::format("{}", fmt::join(targets, ", ")) : results.front().target,
             threads_text(threads), bench.cold ? "cold" : "hot", enough_copies ? "" : kFewCopies);
  fmt::print("{:<{}}  path  {:>5}  {:>10}  {:>19}  {:>7}  {:>6}  {:>6}  {:>9}{}\n", "format", width,
             "M", "us", "p10 - p90", "GFLOP/s", "GB/s", "roof", "rel.error",
             several ? fmt::format("  {:<11}  of best  kernel", "target") : "");
  for (const LinearBenchResult& result : results) {
    const Figures figures(result);
    fmt::print(
        "{:<{}}  {:<4}  {:>5}  {:>10.2f}  {:>19}  {:>7.1f}  {:>6.1f}  {:>4.0f} %  {:>9.5f}{}\n",
        result.format, width, path_name(result.path), result.m, figures.microseconds,
        fmt::format("{:.2f} - {:.2f}", figures.p10, figures.p90), figures.gflops,
        figures.weight_gbps, 100 * figures.roofline_share, result.relative_error,
        several ? fmt::format("  {:<11}  {:>5.0f} %  {}", target_text(result),
                              100 * result.best_share, result.kernel)
                : "");
  }
  fmt::print("\nLimits: {}.\n", fmt::join(limits, "; "));
}

void run_bench(const Options& options) {
  const LinearBench bench = bench_of(options);
  const auto executor = make_thread_executor(options.threads);
  const std::size_t threads = executor->concurrency();
  const std::vector<LinearBenchResult> results = run_linear_bench(bench, *executor);
  if (results.size() == 1) {
    const LinearBenchResult& result = results.front();
    return options.json ? print_json(json_of(bench, result, threads))
                        : print_one(bench, result, threads);
  }
  if (!options.json) return print_table(bench, results, threads);
  Json array = Json::array();
  for (const LinearBenchResult& result : results) {
    Json& added = array.emplace_back(json_of(bench, result, threads));
    added["seconds_p10"] = result.seconds_p10;
    added["seconds_p90"] = result.seconds_p90;
    added["repetitions"] = result.repetitions;
    added["weights_from"] = limits::level_name(result.level);
  }
  print_json(array);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  constexpr std::size_t kLargestAxis = std::size_t{1} << 24;
  CLI::App& command = *app.add_subcommand(
      "bench",
      "Time a linear layer and compare it with what this machine allows. Several formats, paths or "
      "numbers of rows take turns and become a table.");
  const auto options = std::make_shared<Options>();
  const auto axis = CLI::Range(std::size_t{1}, kLargestAxis);
  command.add_option("--n", options->n, "Outputs")->check(axis)->capture_default_str();
  command.add_option("--k", options->k, "Inputs")->check(axis)->capture_default_str();
  command.add_option("--m", options->m, "Rows of activations: a number or several, 1,4,16")
      ->check(axis)
      ->delimiter(',')
      ->capture_default_str();
  command
      .add_option("--format", options->formats,
                  "Format of the weights (see `nybble formats`); may be given several times")
      ->required();
  command
      .add_option("--path", options->paths,
                  "What activations become: a8, a16, a32 or a4, or several: a8,a16")
      ->delimiter(',')
      ->capture_default_str();
  command.add_option("--activations", options->activations,
                     "Format of activations on path a4 (default: the weights')");
  command.add_flag("--per-row-scales", options->per_row_scales,
                   "Path a8: one activation scale a row instead of one a group");
  command
      .add_option(
          "--target", options->targets,
          "Kernel target by name (default: NYBBLE_TARGET, else what is fastest for each M), "
          "or several in turns: chosen,avx2,avx512vnni")
      ->delimiter(',');
  auto* hot =
      command.add_flag("--hot", options->hot, "Use one copy of the weights again and again");
  const std::string cold_help =
      "Take turns with copies of the weights, 8 times the last-level cache in all (the default; at "
      "most half of the free memory)";
  command.add_flag("--cold", cold_help)->excludes(hot);
  command.add_option("--seconds", options->seconds, "Measure each at least so long")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  add_threads_option(command, options->threads);
  add_json_option(command, options->json);
  command.callback([options] { run_bench(*options); });
}

}  // namespace nybble::cli
