#include "nybble/linear/linear.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <string>
#include <vector>

#include "bench/random_normal.h"
#include "bench/rows.h"
#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/kernels.h"

namespace nybble::bench {

namespace {

constexpr std::size_t kRows[] = {1, 16, 128};

void run_linear(benchmark::State& state, const AnyFormat& format, const LinearOptions& options,
                std::size_t m, Executor& executor) {
  try {
    const QuantizedLinear layer(quantized_weights(format, executor), options, executor);
    const std::vector<float> x = random_normal(m, kInputs, 1, 2, executor);
    std::vector<float> y(m * kOutputs);
    Workspace workspace;
    for (auto _ : state) {
      layer.run({x.data(), m, kInputs}, {y.data(), m, kOutputs}, workspace, executor);
      benchmark::ClobberMemory();
    }
    using benchmark::Counter;
    state.counters["flops"] = Counter(2.0 * static_cast<double>(m * kOutputs * kInputs),
                                      Counter::kIsIterationInvariantRate);
    state.counters["weight_bytes"] =
        Counter(static_cast<double>(layer.packed_bytes()), Counter::kIsIterationInvariantRate);
    state.SetLabel(layer.kernel());
  } catch (const Error& error) {
    state.SkipWithError(error.what());
  }
}

}  // namespace

void add_linear_rows(Executor& executor) {
  for (const FormatFamily& family : format_families()) {
    for (const Path path : {Path::a8, Path::a16, Path::a32, Path::a4}) {
      const AnyFormat format = parse_format(family.name);
      for (const TargetInfo& target : list_targets()) {
        if (!target.supported) continue;
        for (const std::size_t m : kRows) {
          const std::string name =
              fmt::format("linear/{}/{}/{}/m:{}", family.name, path_name(path), target.name, m);
          LinearOptions options;
          options.path = path;
          options.target = target.name;
          benchmark::RegisterBenchmark(name.c_str(),
                                       [=, &executor](benchmark::State& state) {
                                         run_linear(state, format, options, m, executor);
                                       })
              ->UseRealTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
}

}  // namespace nybble::bench
