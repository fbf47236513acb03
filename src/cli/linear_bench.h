#pragma once

#include <cstddef>
#include <string>

#include "nybble/linear/linear.h"

namespace nybble::cli {

/// One linear layer to time: y (m x n) = x (m x k) times random normal weights (n x k).
struct LinearBench {
  std::size_t n = 0;
  std::size_t k = 0;
  std::size_t m = 0;
  AnyFormat format;
  LinearOptions linear;
  /// Every call finds its weights in memory, not in a cache; false: in the cache if they fit.
  bool cold = true;
  double min_seconds = 1;  ///< of measuring, at least; never fewer than 15 repetitions
};

struct LinearBenchResult {
  std::string kernel;
  std::string target;
  double seconds = 0;  ///< per call, median
  double seconds_p10 = 0;
  double seconds_p90 = 0;
  std::size_t repetitions = 0;
  std::size_t packed_bytes = 0;
  std::size_t copies = 1;     ///< of the weights, taken in turn
  bool enough_copies = true;  ///< false: memory did not allow 8 times the last-level cache
  double dram_gbps = 0;  ///< read bandwidth of these threads: memory, or the packed size if hot
  double peak_gops = 0;  ///< of these threads, for the kernel's number types
  double roofline_seconds = 0;  ///< what those two limits allow at best
  /// ||y - reference|| / ||reference|| over up to 8 x 64 outputs, the reference in f64 from the
  /// weights and activations before any quantization.
  double relative_error = 0;
};

/// Measures the machine's limits, the layer, and the limits again; the better limits count. Throws
/// bad_option for shapes that do not fit in memory, and what QuantizedLinear throws.
LinearBenchResult run_linear_bench(const LinearBench& bench, Executor& executor);

}  // namespace nybble::cli
