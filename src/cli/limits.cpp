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
  using limits::Level;
  Json out = Json::array();
  for (const std::size_t threads :
       std::set<std::size_t>{1, make_thread_executor(options.threads)->concurrency()}) {
    const auto executor = make_thread_executor(threads);
    const auto add = [&](const std::string& name, double value, const char* unit) {
      out.push_back({{"name", name}, {"threads", threads}, {"value", value}, {"unit", unit}});
    };
    for (const Level level : {Level::memory, Level::l3, Level::l2}) {
      const std::size_t bytes = limits::probe_bytes(level, threads);
      if (bytes == 0) continue;
      add(fmt::format("read_{}", limits::level_name(level)), limits::read_gbps(bytes, *executor),
          "GB/s");
    }
    for (const TargetInfo& target : list_targets()) {
      if (!target.supported) continue;
      for (const Arithmetic type : {Arithmetic::int8, Arithmetic::bf16, Arithmetic::f32}) {
        add(fmt::format("{}_{}", limits::arithmetic_name(type), target.name),
            limits::peak_gops(type, target.name, *executor), "GOP/s");
      }
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
