#include "src/linear/activations.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/random_normal.h"
#include "bench/rows.h"
#include "kernels/registry.h"
#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "nybble/tensor/packed_matrix.h"

namespace nybble::bench {

namespace {

constexpr std::size_t kRows = 16;

/// Rows of x to what a GEMM takes, for weights of 32 values a group.
void run_pack(benchmark::State& state, const std::string& target, ActivationKind kind,
              const std::optional<AnyFormat>& format) {
  SerialExecutor serial;
  const PackedMatrix weight(quantized_weights(parse_format("int4"), serial), serial);
  const std::size_t groups = weight.panels().groups;
  const ActivationPacker packer(*kernels::select(target).table, weight.panels(), kind, kInputs,
                                format, weight.panels().group);
  const std::vector<float> x = random_normal(kRows, kInputs, 1, 2, serial);
  std::vector<std::byte> scratch(packer.scratch_bytes());
  std::vector<std::uint32_t> packed(kRows * packer.dwords());
  std::vector<float> scales(kRows * groups);
  std::vector<std::int32_t> bias(kRows * groups);
  for (auto _ : state) {
    for (std::size_t row = 0; row < kRows; ++row) {
      packer.pack(&x[row * kInputs], row, kRows, scratch.data(), packed.data(), scales.data(),
                  bias.data());
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(x.size() * sizeof(float)));
}

}  // namespace

void add_activation_rows() {
  for (const TargetInfo& target : list_targets()) {
    if (!target.supported) continue;
    const auto add = [&](const std::string& name, ActivationKind kind,
                         const std::optional<AnyFormat>& format) {
      benchmark::RegisterBenchmark(fmt::format("activations/{}/{}", name, target.name).c_str(),
                                   [=, target = target.name](benchmark::State& state) {
                                     run_pack(state, target, kind, format);
                                   })
          ->Unit(benchmark::kMicrosecond);
    };
    add("int8", ActivationKind::int8, std::nullopt);
    add("bf16", ActivationKind::bf16, std::nullopt);
    for (const FormatFamily& family : format_families()) {
      add(family.name, ActivationKind::format_f32, parse_format(family.name));
    }
  }
}

}  // namespace nybble::bench
