#include "bench/peers/report.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "nybble/io/atomic_file.h"

namespace nybble::peers {

namespace {

/// The number after `key` in a file of "key: number unit" lines, 0 if there is none.
double kilobytes_in(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    double value = 0;
    if (word == key && file >> value) return value;
  }
  return 0;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

}  // namespace

void describe_environment(Report& report) {
  report.machine = cpu_name();
  const int policy = sched_getscheduler(0);
  report.scheduling = policy == SCHED_FIFO || policy == SCHED_RR ? "real-time" : "ordinary";
  constexpr const char* kMemory = "/proc/self/smaps_rollup";
  report.pages = fmt::format("{:.0f} % of memory in huge pages",
                             100 * kilobytes_in(kMemory, "AnonHugePages:") /
                                 std::max(1.0, kilobytes_in(kMemory, "Anonymous:")));
}

void print_table(const Report& report, std::size_t threads) {
  std::set<std::size_t> rows;
  std::vector<std::string> names;
  std::map<std::string, std::map<std::size_t, const Point*>> table;
  for (const Point& point : report.points) {
    if (point.threads != threads) continue;
    rows.insert(point.m);
    if (!table.contains(point.name)) names.push_back(point.name);
    table[point.name][point.m] = &point;
  }
  if (names.empty()) return;
  fmt::print("\n{} x {}, {} thread{}: GFLOP/s, median\n", report.n, report.k, threads,
             threads == 1 ? "" : "s");
  fmt::print("{:<26}{:>6}{:>8}{:>9}", "", "bits", "error", "GB/s");
  for (const std::size_t m : rows) fmt::print("{:>8}", fmt::format("M={}", m));
  fmt::print("\n");
  for (const std::string& name : names) {
    const auto& points = table[name];
    const Point& first = *points.begin()->second;
    const Point& last = *points.rbegin()->second;
    fmt::print("{:<26}{:>6.2f}{:>8.4f}{:>9.1f}", name, first.bits_per_weight, last.relative_error,
               first.weight_gbps);
    for (const auto& [m, point] : points) fmt::print("{:>8.0f}", point->gflops);
    fmt::print("\n");
  }
  fmt::print("error: at M = {}; GB/s: of weights, at M = {} (memory gives {:.0f})\n",
             *rows.rbegin(), *rows.begin(), report.dram_gbps.at(threads));
  std::fflush(stdout);
}

void write_json(const Report& report, const std::string& path) {
  using nlohmann::json;
  json points = json::array();
  for (const Point& point : report.points) {
    const double seconds_to_gflops = point.gflops * point.seconds;
    points.push_back({{"name", point.name},
                      {"library", point.library},
                      {"detail", point.detail},
                      {"m", point.m},
                      {"threads", point.threads},
                      {"bits_per_weight", point.bits_per_weight},
                      {"weight_bytes", point.weight_bytes},
                      {"copies", point.copies},
                      {"calls", point.calls},
                      {"seconds", point.seconds},
                      {"gflops", point.gflops},
                      {"gflops_p10", seconds_to_gflops / point.seconds_p90},
                      {"gflops_p90", seconds_to_gflops / point.seconds_p10},
                      {"weight_gbps", point.weight_gbps},
                      {"relative_error", point.relative_error}});
  }
  json skipped = json::array();
  for (const Skipped& entry : report.skipped) {
    skipped.push_back({{"name", entry.name}, {"reason", entry.reason}});
  }
  json dram_gbps = json::object();
  for (const auto& [threads, gbps] : report.dram_gbps) dram_gbps[std::to_string(threads)] = gbps;
  const json document = {{"n", report.n},
                         {"k", report.k},
                         {"cold_bytes", report.cold_bytes},
                         {"rounds", report.protocol.rounds},
                         {"seconds_per_point", report.protocol.seconds},
                         {"machine", report.machine},
                         {"scheduling", report.scheduling},
                         {"pages", report.pages},
                         {"dram_gbps", dram_gbps},
                         {"points", points},
                         {"skipped", skipped}};
  const std::string text = document.dump(1) + '\n';
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace nybble::peers
