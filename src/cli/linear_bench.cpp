#include "linear_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

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

limits::Arithmetic arithmetic_of(std::string_view kernel) {
  if (kernel.starts_with("gemm_a8")) return limits::Arithmetic::int8;
  if (kernel.starts_with("gemm_a16")) return limits::Arithmetic::bf16;
  return limits::Arithmetic::f32;
}

std::string target_of(std::string_view kernel) {
  for (const KernelInfo& info : list_kernels()) {
    if (info.name == kernel) return info.target;
  }
  throw Error(ErrorCode::unsupported, fmt::format("bench: no kernel is called '{}'", kernel));
}

void check_memory(const LinearBench& bench, std::size_t most_m) {
  const std::size_t available = limits::available_memory_bytes();
  // Weights in f32, their codes and one packed copy; activations, their packed form and outputs.
  const std::size_t needed =
      bench.n * bench.k * (4 + 2) + most_m * (2 * bench.k + bench.n) * sizeof(float);
  if (needed <= available) return;
  throw Error(ErrorCode::bad_option,
              fmt::format("bench: n = {}, k = {}, m = {} need {:.1f} GB of memory, {:.1f} GB are "
                          "available",
                          bench.n, bench.k, most_m, static_cast<double>(needed) / 1e9,
                          static_cast<double>(available) / 1e9));
}

/// `quantile` of sorted values, the nearest one.
double quantile_of(const std::vector<double>& sorted, double quantile) {
  return sorted[static_cast<std::size_t>(quantile * static_cast<double>(sorted.size() - 1) + 0.5)];
}

/// How many copies of the weights leave none of them in a cache when their turn comes.
std::size_t copies_wanted(std::size_t packed_bytes) {
  return (8 * limits::last_level_cache_bytes() + packed_bytes - 1) / packed_bytes;
}

/// How many copies fit in `memory` bytes, small ones counted with what surrounds them.
std::size_t copies_allowed(std::size_t packed_bytes, std::size_t memory) {
  constexpr std::size_t kOverhead = 8192;
  return std::max(std::size_t{1}, memory / (packed_bytes + kOverhead));
}

/// The copies of one case's weights, taken in turn by all that compute with them.
struct Weights {
  std::vector<QuantizedLinear> copies;
  std::size_t turn = 0;

  const QuantizedLinear& next() {
    turn = (turn + 1) % copies.size();
    return copies[turn];
  }
};

/// One case with one M, and how long its bursts took.
struct Contestant {
  LinearBenchResult result;
  Weights* weights = nullptr;
  std::size_t calls = 1;        ///< in a burst
  std::vector<double> seconds;  ///< per call, one entry a burst
};

/// What was computed last, and with what.
struct Scratch {
  MatrixView x;  ///< of the largest M
  std::vector<float> y;
  Workspace workspace;

  MatrixView run(Contestant& contestant, Executor& executor) {
    const QuantizedLinear& layer = contestant.weights->next();
    const std::size_t m = contestant.result.m;
    const MutableMatrixView out(y.data(), m, layer.rows());
    layer.run({x.data, m, x.cols}, out, workspace, executor);
    return MatrixView(out);
  }

  double seconds_of(std::size_t calls, Contestant& contestant, Executor& executor) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    for (std::size_t i = 0; i < calls; ++i) run(contestant, executor);
    return std::chrono::duration<double>(Clock::now() - start).count();
  }
};

/// The best that was seen of each limit that some contestant needs.
class Limits {
 public:
  void measure(const std::vector<Contestant>& contestants, Executor& executor) {
    std::set<limits::Level> levels;
    std::set<Peak> peaks;
    for (const Contestant& contestant : contestants) {
      levels.insert(contestant.result.level);
      peaks.insert(peak_of(contestant.result));
    }
    for (const limits::Level level : levels) {
      const std::size_t bytes = limits::probe_bytes(level, executor.concurrency());
      double& best = read_gbps_[level];
      best = std::max(best, limits::read_gbps(bytes, executor));
    }
    for (const Peak& peak : peaks) {
      double& best = peak_gops_[peak];
      best = std::max(best, limits::peak_gops(peak.first, peak.second, executor));
    }
  }

  void set(LinearBenchResult& result) const {
    result.read_gbps = read_gbps_.at(result.level);
    result.peak_gops = peak_gops_.at(peak_of(result));
    result.roofline_seconds =
        std::max(result.operations / (result.peak_gops * 1e9),
                 static_cast<double>(result.packed_bytes) / (result.read_gbps * 1e9));
  }

 private:
  using Peak = std::pair<limits::Arithmetic, std::string>;  ///< of a target
  static Peak peak_of(const LinearBenchResult& result) {
    return {result.arithmetic, result.kernel_target};
  }

  std::map<limits::Level, double> read_gbps_;
  std::map<Peak, double> peak_gops_;
};

/// Packs each case as often as `bench` asks for, with half of the free memory for all of them.
std::vector<std::unique_ptr<Weights>> pack(const LinearBench& bench, MatrixView w,
                                           Executor& executor) {
  const std::size_t memory = limits::available_memory_bytes() / 2 / bench.cases.size();
  std::vector<std::unique_ptr<Weights>> out;
  for (const LinearCase& item : bench.cases) {
    const QuantizedMatrix quantized = quantize_rtn(w, item.format, executor);
    std::vector<QuantizedLinear>& copies = out.emplace_back(std::make_unique<Weights>())->copies;
    copies.emplace_back(quantized, item.options, executor);
    if (!bench.cold) continue;
    const std::size_t bytes = copies.front().packed_bytes();
    const std::size_t count = std::min(copies_wanted(bytes), copies_allowed(bytes, memory));
    while (copies.size() < count) copies.emplace_back(quantized, item.options, executor);
  }
  return out;
}

LinearBenchResult result_of(const LinearBench& bench, const LinearCase& item,
                            const Weights& weights, std::size_t m, std::size_t threads) {
  LinearBenchResult out;
  out.format = item.format.info().spec;
  out.path = item.options.path;
  out.m = m;
  out.kernel = weights.copies.front().kernel(m);
  out.arithmetic = arithmetic_of(out.kernel);
  out.target = select_target(item.options.target);
  out.forced = !item.options.target.empty();
  out.kernel_target = target_of(out.kernel);
  out.packed_bytes = weights.copies.front().packed_bytes();
  out.copies = weights.copies.size();
  if (bench.cold) {
    out.enough_copies = out.copies >= copies_wanted(out.packed_bytes);
  } else {
    out.level = limits::level_of(out.packed_bytes, threads);
  }
  out.operations =
      2.0 * static_cast<double>(m) * static_cast<double>(bench.n) * static_cast<double>(bench.k);
  return out;
}

/// How many calls make a burst long enough to be timed.
std::size_t calls_of_burst(Contestant& contestant, Scratch& scratch, Executor& executor) {
  constexpr double kShortestBurst = 5e-4;
  const auto seconds = [&](std::size_t calls) {
    return scratch.seconds_of(calls, contestant, executor);
  };
  std::size_t calls = 1;
  // The best of three: the first calls find cold caches.
  while (std::min({seconds(calls), seconds(calls), seconds(calls)}) < kShortestBurst) calls *= 2;
  return calls;
}

}  // namespace

std::vector<LinearBenchResult> run_linear_bench(const LinearBench& bench, Executor& executor) {
  constexpr std::size_t kLeastRounds = 15;
  const std::size_t most_m = *std::max_element(bench.m.begin(), bench.m.end());
  check_memory(bench, most_m);
  const std::vector<float> activations = random_normal(most_m, bench.k, 1, 1, executor);
  Scratch scratch{{activations.data(), most_m, bench.k}, std::vector<float>(most_m * bench.n), {}};
  std::vector<float> weights = random_normal(bench.n, bench.k, 0.02F, 2, executor);
  const MatrixView w(weights.data(), bench.n, bench.k);
  std::vector<Reference> references;
  for (const std::size_t m : bench.m) {
    references.emplace_back(w, MatrixView(activations.data(), m, bench.k));
  }
  const std::vector<std::unique_ptr<Weights>> packed = pack(bench, w, executor);
  std::vector<float>().swap(weights);

  std::vector<Contestant> contestants;
  for (std::size_t i = 0; i < bench.cases.size(); ++i) {
    for (std::size_t j = 0; j < bench.m.size(); ++j) {
      Contestant& added = contestants.emplace_back();
      added.result =
          result_of(bench, bench.cases[i], *packed[i], bench.m[j], executor.concurrency());
      added.weights = packed[i].get();
      added.result.relative_error = references[j].relative_error(scratch.run(added, executor));
      added.calls = calls_of_burst(added, scratch, executor);
    }
  }

  Limits limits;
  limits.measure(contestants, executor);
  const double budget = bench.min_seconds * static_cast<double>(contestants.size());
  double total = 0;
  bool half = false;
  for (std::size_t round = 0; round < kLeastRounds || total < budget; ++round) {
    if (!half && 2 * round >= kLeastRounds && 2 * total >= budget) {
      limits.measure(contestants, executor);
      half = true;
    }
    for (Contestant& contestant : contestants) {
      // What ran before left the caches to its own activations and code (and weights, if hot).
      if (contestants.size() > 1) scratch.run(contestant, executor);
      const double seconds = scratch.seconds_of(contestant.calls, contestant, executor);
      total += seconds;
      contestant.seconds.push_back(seconds / static_cast<double>(contestant.calls));
    }
  }
  limits.measure(contestants, executor);

  std::vector<LinearBenchResult> out;
  for (Contestant& contestant : contestants) {
    std::vector<double>& seconds = contestant.seconds;
    std::sort(seconds.begin(), seconds.end());
    LinearBenchResult& result = out.emplace_back(std::move(contestant.result));
    result.seconds = quantile_of(seconds, 0.5);
    result.seconds_p10 = quantile_of(seconds, 0.1);
    result.seconds_p90 = quantile_of(seconds, 0.9);
    result.repetitions = seconds.size();
    limits.set(result);
  }
  for (LinearBenchResult& result : out) {
    for (const LinearBenchResult& other : out) {
      if (other.format == result.format && other.path == result.path && other.m == result.m) {
        result.best_share = std::min(result.best_share, other.seconds / result.seconds);
      }
    }
  }
  return out;
}

}  // namespace nybble::cli
