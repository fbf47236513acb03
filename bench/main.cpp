#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <vector>

#include "bench/random_normal.h"
#include "bench/rows.h"
#include "nybble/executor.h"
#include "nybble/kernels.h"
#include "nybble/quantize/rtn.h"

namespace nybble::bench {

MatrixView weights() {
  static const std::vector<float> values = [] {
    SerialExecutor serial;
    return random_normal(kOutputs, kInputs, 0.02F, 1, serial);
  }();
  return {values.data(), kOutputs, kInputs};
}

const QuantizedMatrix& quantized_weights(const AnyFormat& format, Executor& executor) {
  static std::map<std::string, QuantizedMatrix> known;
  const std::string& spec = format.info().spec;
  const auto found = known.find(spec);
  if (found != known.end()) return found->second;
  return known.emplace(spec, quantize_rtn(weights(), format, executor)).first->second;
}

}  // namespace nybble::bench

/// Threads: the CPUs of the affinity mask (taskset). Which rows: --benchmark_filter. A target for
/// the quantizers: NYBBLE_TARGET.
int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const auto executor = nybble::make_thread_executor();
  benchmark::AddCustomContext("cpu", nybble::cpu_name());
  benchmark::AddCustomContext("threads", std::to_string(executor->concurrency()));
  nybble::bench::add_linear_rows(*executor);
  nybble::bench::add_quantize_rows(*executor);
  nybble::bench::add_activation_rows();
  nybble::bench::add_attention_rows(*executor);
  nybble::bench::add_grouped_rows(*executor);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
