#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "bench/limits/limits.h"
#include "bench/peers/measure.h"
#include "bench/peers/peer.h"
#include "bench/peers/problem.h"
#include "bench/peers/report.h"
#include "nybble/error.h"

namespace {

using namespace nybble;
using namespace nybble::peers;

struct Options {
  std::size_t n = 4096;
  std::size_t k = 4096;
  std::vector<std::size_t> m{1, 2, 4, 8, 16, 32, 128, 512};
  std::vector<std::size_t> threads;
  Protocol protocol;
  std::vector<std::string> only;
  std::string json;
  std::string node_modules = "node_modules";
};

bool wanted(const std::string& name, const std::vector<std::string>& only) {
  return only.empty() || std::any_of(only.begin(), only.end(), [&](const std::string& part) {
           return name.find(part) != std::string::npos;
         });
}

void skip(Report& report, const std::string& name, const std::string& reason) {
  const bool known = std::any_of(report.skipped.begin(), report.skipped.end(),
                                 [&](const Skipped& entry) { return entry.name == name; });
  if (known) return;
  fmt::print("skipped {}: {}\n", name, reason);
  report.skipped.push_back({name, reason});
}

/// Those that can be made, the weights of each quantized, packed and copied.
std::vector<Competitor> make_competitors(const Candidates& candidates, const Setup& setup,
                                         const std::vector<std::string>& only, Report& report) {
  std::vector<Competitor> out;
  for (const Candidate& candidate : candidates.found) {
    if (!wanted(candidate.name, only)) continue;
    try {
      // Some keep a second copy of what they pack while they do it.
      if (limits::available_memory_bytes() < 3 * setup.cold_bytes) {
        throw Error(ErrorCode::unsupported, "not enough memory; choose fewer with --only");
      }
      out.push_back({candidate.name, candidate.library, candidate.make(setup)});
    } catch (const Error& error) {
      skip(report, candidate.name, error.what());
    }
  }
  return out;
}

void run(const Options& options) {
  Candidates candidates;
  add_nybble(candidates);
  add_onnxruntime(candidates, options.node_modules);
  add_ggml(candidates, options.node_modules);
  add_onednn(candidates);
  add_openblas(candidates);
  add_eigen(candidates);

  Report report;
  report.n = options.n;
  report.k = options.k;
  report.protocol = options.protocol;
  constexpr std::size_t kSmallestColdBuffer = std::size_t{256} << 20;
  report.cold_bytes = std::max(kSmallestColdBuffer, 8 * limits::last_level_cache_bytes());
  for (const Skipped& entry : candidates.skipped) skip(report, entry.name, entry.reason);

  const auto executor = make_thread_executor();
  const Problem problem(options.n, options.k, *std::max_element(options.m.begin(), options.m.end()),
                        *executor);
  for (const std::size_t threads : options.threads) {
    const Setup setup{problem.weights(), threads, report.cold_bytes};
    std::vector<Competitor> competitors = make_competitors(candidates, setup, options.only, report);
    const auto dram = [&] {
      return limits::read_gbps(report.cold_bytes, *make_thread_executor(threads));
    };
    const double dram_before = dram();
    for (const std::size_t m : options.m) {
      const std::vector<Point> points = measure(competitors, problem, m, threads, options.protocol);
      report.points.insert(report.points.end(), points.begin(), points.end());
    }
    report.dram_gbps[threads] = std::max(dram_before, dram());
    describe_environment(report);
    print_table(report, threads);
  }
  fmt::print("{}; scheduling: {}; {}; weights out of {} MB\n", report.machine, report.scheduling,
             report.pages, report.cold_bytes >> 20);
  if (!options.json.empty()) write_json(report, options.json);
}

Options parse(int argc, char** argv) {
  Options options;
  const std::size_t cores = std::max(1U, std::thread::hardware_concurrency());
  options.threads = cores == 1 ? std::vector<std::size_t>{1} : std::vector<std::size_t>{1, cores};
  CLI::App app("nybble's linear layer beside those of other libraries", "nybble_peers");
  const CLI::Range positive(std::size_t{1}, std::size_t{1} << 20);
  app.add_option("--n", options.n, "Outputs")->capture_default_str()->check(positive);
  app.add_option("--k", options.k, "Inputs")->capture_default_str()->check(positive);
  app.add_option("--m", options.m, "Rows of activations, a list with commas")
      ->delimiter(',')
      ->capture_default_str()
      ->check(positive);
  app.add_option("--threads", options.threads, "Numbers of threads, a list with commas")
      ->delimiter(',')
      ->capture_default_str()
      ->check(positive);
  app.add_option("--seconds", options.protocol.seconds, "Timed seconds per competitor and M")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--rounds", options.protocol.rounds, "Bursts those are split into")
      ->capture_default_str()
      ->check(positive);
  app.add_option("--only", options.only, "Parts of names, a list with commas")->delimiter(',');
  app.add_option("--json", options.json, "File for all results");
  app.add_option("--node-modules", options.node_modules,
                 "Where fetch.sh put ONNX Runtime and llama.cpp")
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  constexpr std::size_t kSmallest = std::size_t{1} << 20;
  if (options.n * options.k < kSmallest) {
    throw Error(ErrorCode::bad_option,
                fmt::format("n * k = {} is less than {}: cold weights would take too many copies",
                            options.n * options.k, kSmallest));
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "nybble_peers: {}\n", error.what());
    return 1;
  }
}
