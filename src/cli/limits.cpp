#include "bench/limits/limits.h"

#include <fmt/format.h>

#include <memory>
#include <set>
#include <string>

#include "commands.h"
#include "nybble/executor.h"
#include "nybble/kernels.h"
#include "output.h"

namespace nybble::cli {

namespace {

struct Options {
  std::size_t threads = 0;
  bool json = false;
};

void run_limits(const Options& options) {
  using limits::Arithmetic;
  constexpr std::size_t kMegabyte = std::size_t{1} << 20;
  const std::size_t cache = limits::last_level_cache_bytes();
  Json out = Json::array();
  for (const std::size_t threads :
       std::set<std::size_t>{1, make_openmp_executor(options.threads)->concurrency()}) {
    const auto executor = make_openmp_executor(threads);
    const auto add = [&](const std::string& name, double value, const char* unit) {
      out.push_back({{"name", name}, {"threads", threads}, {"value", value}, {"unit", unit}});
    };
    add("read_memory", limits::read_gbps(std::max(256 * kMegabyte, 8 * cache), *executor), "GB/s");
    add("read_last_level_cache", limits::read_gbps(cache / 2, *executor), "GB/s");
    add("read_256KiB_per_thread", limits::read_gbps(threads * kMegabyte / 4, *executor), "GB/s");
    for (const TargetInfo& target : list_targets()) {
      if (!target.supported) continue;
      const auto peak = [&](Arithmetic arithmetic) {
        return limits::peak_gops(arithmetic, target.name, *executor);
      };
      add("int8_" + target.name, peak(Arithmetic::int8), "GOP/s");
      add("bf16_" + target.name, peak(Arithmetic::bf16), "GOP/s");
      add("f32_" + target.name, peak(Arithmetic::f32), "GOP/s");
    }
  }
  if (options.json) return print_json(out);
  for (const Json& row : out) {
    fmt::print("{:<24}{:>3} thread{} {:>9.1f} {}\n", row["name"].get<std::string>(),
               row["threads"].get<std::size_t>(), row["threads"] == 1 ? " " : "s",
               row["value"].get<double>(), row["unit"].get<std::string>());
  }
}

}  // namespace

void add_limits_command(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "limits", "Measure this machine: read bandwidth and peak arithmetic of each target");
  const auto options = std::make_shared<Options>();
  add_threads_option(command, options->threads);
  add_json_option(command, options->json);
  command.callback([options] { run_limits(*options); });
}

}  // namespace nybble::cli
