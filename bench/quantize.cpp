#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/rows.h"
#include "nybble/format/registry.h"
#include "nybble/quantize/clip_search.h"
#include "nybble/quantize/rtn.h"
#include "nybble/tensor/packed_matrix.h"
#include "src/tensor/aligned_buffer.h"

namespace nybble::bench {

namespace {

/// A row whose bytes a second are those of the f32 weights, whatever direction they go.
template <class Step>
void add_row(const std::string& name, const Step& step) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 step();  // makes what it needs
                                 for (auto _ : state) step();
                                 const auto bytes =
                                     static_cast<std::int64_t>(kOutputs * kInputs * sizeof(float));
                                 state.SetBytesProcessed(state.iterations() * bytes);
                               })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

}  // namespace

void add_quantize_rows(Executor& executor) {
  for (const FormatFamily& family : format_families()) {
    const AnyFormat format = parse_format(family.name);
    add_row("quantize_rtn/" + family.name, [=, &executor] {
      benchmark::DoNotOptimize(quantize_rtn(weights(), format, executor).codes.data());
    });
    add_row("quantize_clip_search/" + family.name, [=, &executor] {
      benchmark::DoNotOptimize(quantize_clip_search(weights(), format, executor).codes.data());
    });
    add_row("dequantize/" + family.name, [=, &executor,
                                          out = std::make_shared<std::vector<float>>(kOutputs *
                                                                                     kInputs)] {
      dequantize(quantized_weights(format, executor), {out->data(), kOutputs, kInputs}, executor);
      benchmark::ClobberMemory();
    });
    add_row("pack/" + family.name, [=, &executor] {
      benchmark::DoNotOptimize(PackedMatrix(quantized_weights(format, executor), executor).bytes());
    });
    // What packing cannot beat: the same bytes into memory as fresh.
    add_row("copy/" + family.name, [=, &executor] {
      const QuantizedMatrix& q = quantized_weights(format, executor);
      for (const auto* bytes : {&q.codes, &q.scales, &q.zero_points}) {
        const AlignedBuffer to(bytes->size());
        constexpr std::size_t kParts = 128;
        executor.parallel_for(kParts, [&](std::size_t part) {
          const auto at = [&](std::size_t i) { return bytes->size() * i / kParts; };
          std::copy(bytes->data() + at(part), bytes->data() + at(part + 1), to.data() + at(part));
        });
        benchmark::DoNotOptimize(to.data());
        benchmark::ClobberMemory();
      }
    });
  }
}

}  // namespace nybble::bench
