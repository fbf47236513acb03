#include "linear_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string_view>
#include <vector>

#include "bench/limits/limits.h"
#include "bench/random_normal.h"
#include "nybble/error.h"
#include "nybble/kernels.h"
#include "nybble/quantize/rtn.h"

namespace nybble::cli {

namespace {

constexpr std::size_t kSampledOutputs = 64;
constexpr std::size_t kSampledInputs = 8;

/// At most `limit` rows of `rows`, evenly spread.
std::vector<std::size_t> sample(std::size_t rows, std::size_t limit) {
  const std::size_t count = std::min(rows, limit);
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(rows * i / count);
  return out;
}

/// Outputs computed in f64 before the weights are quantized and dropped.
struct Reference {
  std::vector<std::size_t> inputs, outputs;
  std::vector<double> y;  ///< inputs x outputs

  Reference(MatrixView weight, MatrixView x)
      : inputs(sample(x.rows, kSampledInputs)), outputs(sample(weight.rows, kSampledOutputs)) {
    for (const std::size_t m : inputs) {
      for (const std::size_t n : outputs) {
        double sum = 0;
        for (std::size_t k = 0; k < x.cols; ++k) {
          sum += static_cast<double>(x.at(m, k)) * static_cast<double>(weight.at(n, k));
        }
        y.push_back(sum);
      }
    }
  }

  [[nodiscard]] double relative_error(MatrixView computed) const {
    double error = 0;
    double norm = 0;
    std::size_t at = 0;
    for (const std::size_t m : inputs) {
      for (const std::size_t n : outputs) {
        const double difference = computed.at(m, n) - y[at];
        error += difference * difference;
        norm += y[at] * y[at];
        ++at;
      }
    }
    return std::sqrt(error / norm);
  }
};

limits::Arithmetic arithmetic(std::string_view kernel) {
  if (kernel.starts_with("gemm_a8")) return limits::Arithmetic::int8;
  if (kernel.starts_with("gemm_a16")) return limits::Arithmetic::bf16;
  return limits::Arithmetic::f32;
}

void check_memory(const LinearBench& bench) {
  const std::size_t available = limits::available_memory_bytes();
  // Weights in f32, their codes and one packed copy; activations, their packed form and outputs.
  const std::size_t needed =
      bench.n * bench.k * (4 + 2) + bench.m * (2 * bench.k + bench.n) * sizeof(float);
  if (needed <= available) return;
  throw Error(ErrorCode::bad_option,
              fmt::format("bench: n = {}, k = {}, m = {} need {:.1f} GB of memory, {:.1f} GB are "
                          "available",
                          bench.n, bench.k, bench.m, static_cast<double>(needed) / 1e9,
                          static_cast<double>(available) / 1e9));
}

/// Seconds per call of `call`, sorted: each entry the mean of enough calls in a row to be timed.
template <class Call>
std::vector<double> time_calls(double min_seconds, const Call& call) {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t kMinRepetitions = 15;
  constexpr double kShortestRepetition = 1e-4;
  const auto seconds_of = [&](std::size_t calls) {
    const auto start = Clock::now();
    for (std::size_t i = 0; i < calls; ++i) call();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  // The best of three: the first calls find cold caches and a workspace still to be grown.
  std::size_t calls = 1;
  while (std::min({seconds_of(calls), seconds_of(calls), seconds_of(calls)}) <
         kShortestRepetition) {
    calls *= 2;
  }
  std::vector<double> out;
  double total = 0;
  while (out.size() < kMinRepetitions || total < min_seconds) {
    const double seconds = seconds_of(calls);
    total += seconds;
    out.push_back(seconds / static_cast<double>(calls));
  }
  std::sort(out.begin(), out.end());
  return out;
}

/// `quantile` of sorted values, the nearest one.
double quantile_of(const std::vector<double>& sorted, double quantile) {
  return sorted[static_cast<std::size_t>(quantile * static_cast<double>(sorted.size() - 1) + 0.5)];
}

/// How many copies of the weights leave none of them in a cache when their turn comes.
std::size_t copies_wanted(std::size_t packed_bytes) {
  return (8 * limits::last_level_cache_bytes() + packed_bytes - 1) / packed_bytes;
}

/// How many copies memory allows, small ones counted with what surrounds them.
std::size_t copies_allowed(std::size_t packed_bytes) {
  constexpr std::size_t kOverhead = 8192;
  return std::max(std::size_t{1},
                  limits::available_memory_bytes() / 2 / (packed_bytes + kOverhead));
}

}  // namespace

LinearBenchResult run_linear_bench(const LinearBench& bench, Executor& executor) {
  check_memory(bench);
  LinearBenchResult out;
  out.target = select_target(bench.linear.target);
  const std::vector<float> activations = random_normal(bench.m, bench.k, 1, 1, executor);
  const MatrixView x(activations.data(), bench.m, bench.k);
  std::vector<float> weights = random_normal(bench.n, bench.k, 0.02F, 2, executor);
  const MatrixView w(weights.data(), bench.n, bench.k);
  const Reference reference(w, x);
  const QuantizedMatrix quantized = quantize_rtn(w, bench.format, executor);
  std::vector<float>().swap(weights);

  std::vector<QuantizedLinear> layers;
  layers.emplace_back(quantized, bench.linear, executor);
  out.kernel = layers.front().kernel();
  out.packed_bytes = layers.front().packed_bytes();
  if (bench.cold) {
    const std::size_t wanted = copies_wanted(out.packed_bytes);
    out.copies = std::min(wanted, copies_allowed(out.packed_bytes));
    out.enough_copies = out.copies == wanted;
    while (layers.size() < out.copies) layers.emplace_back(quantized, bench.linear, executor);
  }

  const auto measure_limits = [&] {
    constexpr std::size_t kSmallestColdBuffer = std::size_t{256} << 20;
    const std::size_t bytes =
        bench.cold ? std::max(kSmallestColdBuffer, 8 * limits::last_level_cache_bytes())
                   : out.packed_bytes;
    out.dram_gbps = std::max(out.dram_gbps, limits::read_gbps(bytes, executor));
    out.peak_gops =
        std::max(out.peak_gops, limits::peak_gops(arithmetic(out.kernel), out.target, executor));
  };
  std::vector<float> result(bench.m * bench.n);
  const MutableMatrixView y(result.data(), bench.m, bench.n);
  Workspace workspace;
  std::size_t turn = 0;
  measure_limits();
  const std::vector<double> seconds = time_calls(bench.min_seconds, [&] {
    layers[turn].run(x, y, workspace, executor);
    turn = (turn + 1) % layers.size();
  });
  measure_limits();

  out.seconds = quantile_of(seconds, 0.5);
  out.seconds_p10 = quantile_of(seconds, 0.1);
  out.seconds_p90 = quantile_of(seconds, 0.9);
  out.repetitions = seconds.size();
  out.relative_error = reference.relative_error(MatrixView(y));
  const double operations = 2.0 * static_cast<double>(bench.m) * static_cast<double>(bench.n) *
                            static_cast<double>(bench.k);
  out.roofline_seconds = std::max(operations / (out.peak_gops * 1e9),
                                  static_cast<double>(out.packed_bytes) / (out.dram_gbps * 1e9));
  return out;
}

}  // namespace nybble::cli
