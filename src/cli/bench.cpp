#include <fmt/format.h>

#include <memory>
#include <string>

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
  std::size_t m = 1;
  std::string format, path = "a8", activations, target;
  bool per_row_scales = false;
  bool hot = false;
  std::size_t threads = 0;
  double seconds = 1;
  bool json = false;
};

LinearBench bench_of(const Options& options) {
  LinearBench bench{.n = options.n,
                    .k = options.k,
                    .m = options.m,
                    .format = parse_format(options.format),
                    .linear = {},
                    .cold = !options.hot,
                    .min_seconds = options.seconds};
  bench.linear.path = parse_path(options.path);
  bench.linear.scale_per_row = options.per_row_scales;
  bench.linear.target = options.target;
  if (!options.activations.empty()) bench.linear.activations = parse_format(options.activations);
  if (options.per_row_scales && bench.linear.path != Path::a8) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--per-row-scales goes with path a8, not {}", options.path));
  }
  return bench;
}

void run_bench(const Options& options) {
  const LinearBench bench = bench_of(options);
  const auto executor = make_openmp_executor(options.threads);
  const LinearBenchResult result = run_linear_bench(bench, *executor);
  const double operations = 2.0 * static_cast<double>(bench.m) * static_cast<double>(bench.n) *
                            static_cast<double>(bench.k);
  const double gflops = operations / result.seconds / 1e9;
  const double weight_gbps = static_cast<double>(result.packed_bytes) / result.seconds / 1e9;
  const double roofline_share = result.roofline_seconds / result.seconds;
  if (options.json) {
    return print_json({{"kernel", result.kernel},
                       {"seconds", result.seconds},
                       {"gflops", gflops},
                       {"weight_gbps", weight_gbps},
                       {"roofline_share", roofline_share},
                       {"dram_gbps", result.dram_gbps},
                       {"peak_gops", result.peak_gops},
                       {"relative_error", result.relative_error},
                       {"n", bench.n},
                       {"k", bench.k},
                       {"m", bench.m},
                       {"format", bench.format.info().spec},
                       {"path", path_name(bench.linear.path)},
                       {"threads", executor->concurrency()},
                       {"target", result.target},
                       {"cold", bench.cold}});
  }
  fmt::print("kernel          {} (target {}, {} thread{})\n", result.kernel, result.target,
             executor->concurrency(), executor->concurrency() == 1 ? "" : "s");
  fmt::print("layer           n = {}, k = {}, m = {}, {} on path {}, {:.2f} MB packed\n", bench.n,
             bench.k, bench.m, bench.format.info().spec, path_name(bench.linear.path),
             static_cast<double>(result.packed_bytes) / 1e6);
  if (bench.cold) {
    fmt::print("weights         cold: {} copies in turn{}\n", result.copies,
               result.enough_copies
                   ? ""
                   : ", half of the free memory: less than 8 times the last-level cache");
  } else {
    fmt::print("weights         hot: one copy\n");
  }
  fmt::print("time            {:.2f} us, p10 {:.2f}, p90 {:.2f} ({} repetitions)\n",
             result.seconds * 1e6, result.seconds_p10 * 1e6, result.seconds_p90 * 1e6,
             result.repetitions);
  fmt::print("arithmetic      {:.1f} GOP/s of {:.1f}\n", gflops, result.peak_gops);
  fmt::print("weight reading  {:.1f} GB/s of {:.1f}\n", weight_gbps, result.dram_gbps);
  fmt::print("roofline share  {:.1f} %\n", 100 * roofline_share);
  fmt::print("relative error  {:.5f}\n", result.relative_error);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  constexpr std::size_t kLargestAxis = std::size_t{1} << 24;
  CLI::App& command = *app.add_subcommand(
      "bench", "Time one linear layer and compare it with what this machine allows");
  const auto options = std::make_shared<Options>();
  const auto axis = CLI::Range(std::size_t{1}, kLargestAxis);
  command.add_option("--n", options->n, "Outputs")->check(axis)->capture_default_str();
  command.add_option("--k", options->k, "Inputs")->check(axis)->capture_default_str();
  command.add_option("--m", options->m, "Rows of activations")->check(axis)->capture_default_str();
  command.add_option("--format", options->format, "Format of the weights; see `nybble formats`")
      ->required();
  command.add_option("--path", options->path, "What activations become: a8, a16, a32 or a4")
      ->capture_default_str();
  command.add_option("--activations", options->activations,
                     "Format of activations on path a4 (default: the weights')");
  command.add_flag("--per-row-scales", options->per_row_scales,
                   "Path a8: one activation scale a row instead of one a group");
  command.add_option("--target", options->target,
                     "Kernel target by name (default: NYBBLE_TARGET or the best)");
  auto* hot =
      command.add_flag("--hot", options->hot, "Use one copy of the weights again and again");
  const std::string cold_help =
      "Take turns with copies of the weights, 8 times the last-level cache in all (the default; at "
      "most half of the free memory)";
  command.add_flag("--cold", cold_help)->excludes(hot);
  command.add_option("--seconds", options->seconds, "Measure at least so long")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  add_threads_option(command, options->threads);
  add_json_option(command, options->json);
  command.callback([options] { run_bench(*options); });
}

}  // namespace nybble::cli
