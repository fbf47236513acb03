#include "bench/limits/limits.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "kernels/region.h"
#include "nybble/error.h"
#include "nybble/kernels.h"
#include "src/tensor/aligned_buffer.h"

// Makes the compiler forget what it knows of a vector, so that it neither folds nor hoists the step
// that is timed. No instruction comes of it.
#if defined(__x86_64__)
#define NYBBLE_FORGET(vector) __asm__ volatile("" : "+v"(vector))
#elif defined(__aarch64__)
#define NYBBLE_FORGET(vector) __asm__ volatile("" : "+w"(vector))
#else
#define NYBBLE_FORGET(vector) __asm__ volatile("" : "+m"(vector))
#endif

// A function that does `step`, which changes `sum` in place and reads `x`, on each of kChains
// independent sums, `rounds` times.
#define NYBBLE_PEAK_PROBE(name, vector, step)     \
  void name(std::size_t rounds) noexcept {        \
    vector sums[kChains] = {};                    \
    vector x = {};                                \
    NYBBLE_FORGET(x);                             \
    for (std::size_t i = 0; i < rounds; ++i) {    \
      for (vector & sum : sums) {                 \
        step;                                     \
      }                                           \
    }                                             \
    for (vector & sum : sums) NYBBLE_FORGET(sum); \
  }

// A function that reads `bytes` (a multiple of kReadStep) at p.
#define NYBBLE_READ_PROBE(name, vector)                              \
  void name(const std::uint8_t* p, std::size_t bytes) noexcept {     \
    constexpr std::size_t kVectors = kReadStep / sizeof(vector);     \
    vector seen[kVectors] = {};                                      \
    for (std::size_t at = 0; at < bytes; at += kReadStep) {          \
      const auto* from = reinterpret_cast<const vector*>(p + at);    \
      for (std::size_t i = 0; i < kVectors; ++i) seen[i] |= from[i]; \
    }                                                                \
    for (vector & value : seen) NYBBLE_FORGET(value);                \
  }

namespace nybble::limits {
namespace {

/// More than latency x issue width of every instruction timed here (5 x 2), and few enough for 16
/// registers.
constexpr std::size_t kChains = 12;
constexpr std::size_t kReadStep = 256;

// 16-byte vectors in the compilers' own notation: what any CPU has.
using Float4 = float __attribute__((vector_size(16)));
using Word2 = long long __attribute__((vector_size(16), may_alias));

NYBBLE_PEAK_PROBE(multiply_add_baseline, Float4, {
  NYBBLE_FORGET(x);
  sum += x * x;
})
NYBBLE_READ_PROBE(read_baseline, Word2)

#if defined(__x86_64__)
// By hand: g++ 12 puts a copy of the sum before and behind each intrinsic, which on Cascade Lake,
// two dots a cycle, halved what was measured.
#define NYBBLE_ACCUMULATE(instruction) \
  __asm__ volatile(instruction " %1, %1, %0" : "+v"(sum) : "v"(x))

NYBBLE_REGION_BEGIN("avx2,fma")
NYBBLE_PEAK_PROBE(fma_avx2, __m256, NYBBLE_ACCUMULATE("vfmadd231ps"))
// The plain dot of three instructions. Sums that stay in 16 bits for a while can beat it.
NYBBLE_PEAK_PROBE(dot_avx2, __m256i, {
  __m256i pairs;
  __asm__ volatile("vpmaddubsw %1, %1, %0" : "=v"(pairs) : "v"(x));
  __asm__ volatile("vpmaddwd %1, %0, %0" : "+v"(pairs) : "v"(x));
  __asm__ volatile("vpaddd %1, %0, %0" : "+v"(sum) : "v"(pairs));
})
NYBBLE_READ_PROBE(read_avx2, __m256i)
NYBBLE_REGION_END

NYBBLE_REGION_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")
NYBBLE_PEAK_PROBE(fma_avx512, __m512, NYBBLE_ACCUMULATE("vfmadd231ps"))
NYBBLE_PEAK_PROBE(dot_avx512vnni, __m512i, NYBBLE_ACCUMULATE("vpdpbusd"))
NYBBLE_REGION_END

NYBBLE_REGION_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")
NYBBLE_PEAK_PROBE(dot_avx512bf16, __m512, NYBBLE_ACCUMULATE("vdpbf16ps"))
NYBBLE_REGION_END
#endif

struct PeakProbe {
  const char* target;
  Arithmetic arithmetic;
  void (*run)(std::size_t rounds) noexcept;
  double operations;  ///< per step
};

// What the kernels of each target compute with. `scalar` is plain C++, of which a compiler can make
// 16-byte vectors at best.
constexpr PeakProbe kPeakProbes[] = {
    {"scalar", Arithmetic::int8, multiply_add_baseline, 8},
    {"scalar", Arithmetic::bf16, multiply_add_baseline, 8},
    {"scalar", Arithmetic::f32, multiply_add_baseline, 8},
#if defined(__x86_64__)
    {"avx2", Arithmetic::int8, dot_avx2, 64},
    {"avx2", Arithmetic::bf16, fma_avx2, 16},
    {"avx2", Arithmetic::f32, fma_avx2, 16},
    {"avx512vnni", Arithmetic::int8, dot_avx512vnni, 128},
    {"avx512vnni", Arithmetic::bf16, fma_avx512, 32},
    {"avx512vnni", Arithmetic::f32, fma_avx512, 32},
    {"avx512vbmi", Arithmetic::int8, dot_avx512vnni, 128},
    {"avx512vbmi", Arithmetic::bf16, fma_avx512, 32},
    {"avx512vbmi", Arithmetic::f32, fma_avx512, 32},
    {"avx512bf16", Arithmetic::int8, dot_avx512vnni, 128},
    {"avx512bf16", Arithmetic::bf16, dot_avx512bf16, 64},
    {"avx512bf16", Arithmetic::f32, fma_avx512, 32},
#endif
};

bool cpu_supports(std::string_view target) {
  for (const TargetInfo& info : list_targets()) {
    if (info.name == target) return info.supported;
  }
  return false;
}

/// The shortest wall time of `passes` runs of task(0) ... task(threads - 1) at once.
template <class Task>
double best_seconds(int passes, Executor& executor, const Task& task) {
  using Clock = std::chrono::steady_clock;
  double best = std::numeric_limits<double>::infinity();
  for (int pass = 0; pass < passes; ++pass) {
    const auto start = Clock::now();
    executor.parallel_for(executor.concurrency(), task);
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

/// The first number after `key` in a text file of the system, 0 if there is none.
std::size_t number_after(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  std::size_t value = 0;
  while (!key.empty() && file >> word && word != key) {
  }
  return file >> value ? value : 0;
}

/// Size of the first CPU's cache of a level from 2 on, 0 if the system reports none.
std::size_t cache_bytes(std::size_t level) {
  for (int index = 0; index < 16; ++index) {
    const std::string folder =
        "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    if (number_after(folder + "level", "") == level) {
      return number_after(folder + "size", "") * 1024;
    }
  }
  return 0;
}

}  // namespace

const char* arithmetic_name(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::int8:
      return "int8";
    case Arithmetic::bf16:
      return "bf16";
    case Arithmetic::f32:
      return "f32";
  }
  return "?";
}

double peak_gops(Arithmetic arithmetic, std::string_view target, Executor& executor) {
  constexpr std::size_t kRounds = std::size_t{1} << 19;  // a few milliseconds
  constexpr int kPasses = 24;
  for (const PeakProbe& probe : kPeakProbes) {
    if (probe.target != target || probe.arithmetic != arithmetic || !cpu_supports(target)) continue;
    const double seconds =
        best_seconds(kPasses, executor, [&](std::size_t /*thread*/) { probe.run(kRounds); });
    return static_cast<double>(executor.concurrency() * kRounds * kChains) * probe.operations /
           seconds / 1e9;
  }
  throw Error(ErrorCode::unsupported,
              "limits: no probe for target '" + std::string(target) + "' on this CPU");
}

double read_gbps(std::size_t bytes, Executor& executor) {
  constexpr std::size_t kBytesPerPass = std::size_t{64} << 20;
  constexpr int kPasses = 12;
  const std::size_t threads = executor.concurrency();
  const std::size_t slice = std::max(kReadStep, bytes / threads / kReadStep * kReadStep);
  const std::size_t repeats = std::max(std::size_t{1}, kBytesPerPass / (slice * threads));
  const AlignedBuffer buffer(slice * threads);
  executor.parallel_for(
      threads, [&](std::size_t thread) { std::memset(buffer.data() + thread * slice, 1, slice); });
  auto* read = read_baseline;
#if defined(__x86_64__)
  if (cpu_supports("avx2")) read = read_avx2;
#endif
  const double seconds = best_seconds(kPasses, executor, [&](std::size_t thread) {
    for (std::size_t i = 0; i < repeats; ++i) read(buffer.data() + thread * slice, slice);
  });
  return static_cast<double>(slice * threads * repeats) / seconds / 1e9;
}

const char* level_name(Level level) {
  switch (level) {
    case Level::l2:
      return "L2";
    case Level::l3:
      return "L3";
    case Level::memory:
      return "memory";
  }
  return "?";
}

Level level_of(std::size_t bytes, std::size_t threads) {
  if (bytes <= cache_bytes(2) * threads) return Level::l2;
  if (bytes <= cache_bytes(3)) return Level::l3;
  return Level::memory;
}

std::size_t probe_bytes(Level level, std::size_t threads) {
  constexpr std::size_t kLeastOfMemory = std::size_t{256} << 20;
  switch (level) {
    case Level::l2:
      return cache_bytes(2) / 2 * threads;
    case Level::l3:
      return cache_bytes(3) / 2;
    case Level::memory:
      break;
  }
  return std::max(kLeastOfMemory, 8 * last_level_cache_bytes());
}

std::size_t last_level_cache_bytes() {
  for (const std::size_t level : {4U, 3U, 2U}) {
    if (const std::size_t bytes = cache_bytes(level)) return bytes;
  }
  return std::size_t{32} << 20;
}

std::size_t available_memory_bytes() {
  const std::size_t kilobytes = number_after("/proc/meminfo", "MemAvailable:");
  return kilobytes != 0 ? kilobytes * 1024 : std::size_t{4} << 30;
}

}  // namespace nybble::limits
