#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bench/limits/limits.h"
#include "nybble/linear/linear.h"

namespace nybble::cli {

/// Weights and what to compute with them.
struct LinearCase {
  AnyFormat format;
  LinearOptions options;
};

/// Linear layers to time: y (M x N) = x (M x K) times random normal weights (N x K), each case with
/// each M.
struct LinearBench {
  std::size_t n = 0;
  std::size_t k = 0;
  std::vector<std::size_t> m;
  std::vector<LinearCase> cases;
  /// Every call finds its weights in memory, not in a cache; false: in the cache if they fit.
  bool cold = true;
  double min_seconds = 1;  ///< of measuring each; never fewer than 15 repetitions
};

/// One case with one M.
struct LinearBenchResult {
  std::string format;
  Path path = Path::a8;
  std::size_t m = 0;
  std::string kernel;
  std::string target;  ///< that was asked for, else the one that is chosen
  bool forced = false;
  std::string kernel_target;  ///< whose code the kernel is
  double seconds = 0;         ///< per call, median
  double seconds_p10 = 0;
  double seconds_p90 = 0;
  std::size_t repetitions = 0;
  std::size_t packed_bytes = 0;
  std::size_t copies = 1;     ///< of the weights, taken in turn
  bool enough_copies = true;  ///< false: memory did not allow 8 times the last-level cache
  limits::Level level = limits::Level::memory;  ///< where the weights come from
  double read_gbps = 0;                         ///< these threads' read bandwidth from there
  limits::Arithmetic arithmetic = limits::Arithmetic::f32;  ///< of the kernel
  double peak_gops = 0;  ///< of these threads, in that arithmetic
  double operations = 0;
  double roofline_seconds = 0;  ///< what those two limits allow at best
  double best_share = 1;        ///< the fastest target's time of the same layer over this one's
  /// ||y - reference|| / ||reference|| over up to 8 x 64 outputs, the reference in f64 from the
  /// weights and activations before any quantization.
  double relative_error = 0;
};

/// All cases in order, each with every M in order. They take turns in short bursts, so that what
/// else the machine does meets all of them alike; its limits are measured before, in the middle and
/// after, and the best count. Throws bad_option for shapes that do not fit in memory, and what
/// QuantizedLinear throws.
std::vector<LinearBenchResult> run_linear_bench(const LinearBench& bench, Executor& executor);

}  // namespace nybble::cli
