#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "bench/peers/measure.h"

namespace nybble::peers {

/// A run as a whole: what was measured, how, and what was not.
struct Report {
  std::size_t n = 0;
  std::size_t k = 0;
  std::size_t cold_bytes = 0;
  Protocol protocol;
  std::string machine;     ///< the CPU as it names itself
  std::string scheduling;  ///< of this process: "real-time" or "shared with other programs"
  std::string pages;       ///< share of this process' memory in huge pages
  std::map<std::size_t, double> dram_gbps;  ///< read from memory, by number of threads
  std::vector<Point> points;
  std::vector<Skipped> skipped;
};

/// What the machine and this process' settings are. Call it while the competitors are in memory.
void describe_environment(Report& report);

/// One table: rows are competitors, columns numbers of rows M, for the points of `threads` threads.
void print_table(const Report& report, std::size_t threads);

/// Everything, to a file that appears complete or not at all. Throws io.
void write_json(const Report& report, const std::string& path);

}  // namespace nybble::peers
