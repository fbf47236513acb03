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
#include "src/tensor/aligned_buffer.h"
#include "src/tensor/integer_levels.h"

namespace nybble::bench {

namespace {

constexpr std::size_t kRows = 16;

/// Rows of x to what a GEMM takes, for weights of 32 values a group.
void run_pack(benchmark::State& state, const std::string& target, ActivationKind kind,
              const std::optional<AnyFormat>& format) {
  SerialExecutor serial;
  const PackedMatrix weight(quantized_weights(parse_format("int4"), serial), serial,
                            format && format->info().group != 0 ? format->info().group : 256);
  const kernels::KernelTable& table = *kernels::select(target).table;
  const std::size_t scale_group = weight.panels().group;
  const ActivationPacker packer(table, weight.panels(), kind, kInputs, format, scale_group);
  const std::vector<float> x = random_normal(kRows, kInputs, 1, 2, serial);
  const AlignedBuffer scratch(packer.scratch_bytes());
  const AlignedBuffer memory(packer.packed_bytes(kRows));
  const PackedActivations packed = packer.place(reinterpret_cast<std::byte*>(memory.data()), kRows);
  for (auto _ : state) {
    for (std::size_t row = 0; row < kRows; ++row) {
      packer.pack(&x[row * kInputs], row, kRows, reinterpret_cast<std::byte*>(scratch.data()),
                  packed);
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
      // What path a4 takes beside weights of the same format.
      const AnyFormat format = parse_format(family.name);
      ActivationKind kind = ActivationKind::format_f32;
      if (format.info().layout == ScaleLayout::sign_split) {
        kind = ActivationKind::format_bf16;
      } else if (integer_levels(format.info().levels).exact) {
        kind = ActivationKind::format_integers;
      }
      add(family.name, kind, format);
    }
  }
}

}  // namespace nybble::bench
