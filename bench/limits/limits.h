#pragma once

#include <cstddef>
#include <string_view>

#include "nybble/executor.h"

/// What the machine allows, measured here and now: the rooflines that benchmarks are compared with.
namespace nybble::limits {

/// The number types of a kernel's inner step.
enum class Arithmetic {
  int8,  ///< 8-bit integer dots
  bf16,  ///< bf16 dots; f32 multiply-adds on targets without them
  f32,   ///< f32 multiply-adds
};

/// "int8", "bf16" or "f32".
const char* arithmetic_name(Arithmetic arithmetic);

/// 10^9 multiplications and additions a second of all the executor's threads together, from
/// registers, with the instructions `target` has for it. The best of several short passes. Throws
/// unsupported for a target that this CPU lacks or that has no probe.
double peak_gops(Arithmetic arithmetic, std::string_view target, Executor& executor);

/// 10^9 bytes a second that the executor's threads read together, each its own slice of one buffer
/// of `bytes` in huge pages, front to back, again and again. The best of several passes.
double read_gbps(std::size_t bytes, Executor& executor);

/// Where data comes from that threads read again and again.
enum class Level { l2, l3, memory };

/// "L2", "L3" or "memory".
const char* level_name(Level level);

/// The first level that holds `bytes` of which each thread reads its own share. L2 caches are taken
/// to be private, L3 to be shared.
Level level_of(std::size_t bytes, std::size_t threads);

/// What read_gbps must read to measure a level: half of the L2 cache for each thread, half of the
/// L3 cache, or 8 times the last-level cache and at least 256 MB. 0 for a cache that the system
/// does not report.
std::size_t probe_bytes(Level level, std::size_t threads);

/// Size of the last-level cache as the system reports it, 32 MB where it does not.
std::size_t last_level_cache_bytes();

/// Memory that can be used without swapping, 4 GB where the system does not say.
std::size_t available_memory_bytes();

}  // namespace nybble::limits
