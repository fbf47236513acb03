#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "bench/random_normal.h"
#include "bench/rows.h"
#include "kernels/registry.h"
#include "nybble/attention/kv_cache.h"
#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/kernels.h"

namespace nybble::bench {

namespace {

// One decoding step of Llama 3 8B.
constexpr std::size_t kHeads = 32;
constexpr std::size_t kKvHeads = 8;
constexpr std::size_t kHeadDim = 128;
constexpr std::size_t kTokens = 8192;
constexpr std::size_t kKvCols = kKvHeads * kHeadDim;
/// Caches that take turns, so that each is read from memory: 75 MB of codes, or 268 MB of f32.
constexpr std::size_t kLayers = 8;
constexpr std::size_t kF32Layers = 4;

const std::vector<float>& tokens(Executor& executor) {
  static const std::vector<float> values = random_normal(kTokens, kKvCols, 1, 3, executor);
  return values;
}

void report(benchmark::State& state, std::size_t bytes) {
  using benchmark::Counter;
  state.counters["kv_bytes"] =
      Counter(static_cast<double>(bytes), Counter::kIsIterationInvariantRate);
  state.counters["bits"] =
      8 * static_cast<double>(bytes) / static_cast<double>(2 * kTokens * kKvCols);
}

void run_attention(benchmark::State& state, const KvCacheOptions& options, Executor& executor) {
  try {
    const std::vector<float>& x = tokens(executor);
    std::vector<KvCache> layers;
    for (std::size_t i = 0; i < kLayers; ++i) {
      layers.emplace_back(kKvHeads, kHeadDim, kTokens, options);
      layers.back().append({x.data(), kTokens, kKvCols}, {x.data(), kTokens, kKvCols}, executor);
    }
    std::vector<float> out(kHeads * kHeadDim);
    Workspace workspace;
    std::size_t layer = 0;
    for (auto _ : state) {
      layers[layer].attend({x.data(), 1, out.size()}, {out.data(), 1, out.size()},
                           1 / std::sqrt(static_cast<float>(kHeadDim)), workspace, executor);
      benchmark::ClobberMemory();
      layer = (layer + 1) % kLayers;
    }
    report(state, layers[0].bytes());
    state.SetLabel(layers[0].key_kernel());
  } catch (const Error& error) {
    state.SkipWithError(error.what());
  }
}

/// Storing one more token.
void run_append(benchmark::State& state, const KvCacheOptions& options, Executor& executor) {
  try {
    const std::vector<float>& x = tokens(executor);
    KvCache cache(kKvHeads, kHeadDim, kTokens, options);
    for (auto _ : state) {
      if (cache.size() == kTokens) cache.clear();
      const float* token = x.data() + cache.size() * kKvCols;
      cache.append({token, 1, kKvCols}, {token, 1, kKvCols}, executor);
    }
  } catch (const Error& error) {
    state.SkipWithError(error.what());
  }
}

// What an f32 cache costs where the compiler may use whatever this CPU has: the loops run along
// tokens for keys (head_dim x tokens) and along channels for values (tokens x head_dim), so that
// they vectorize without changing the order of a sum, and all rows use what was loaded once.
constexpr std::size_t kRows = kHeads / kKvHeads;
constexpr std::size_t kTokenBlock = 512;
constexpr std::size_t kChannelBlock = 64;
static_assert(kRows == 4);

__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void f32_scores(
    const float* keys, const float* q, float* scores) {
  std::fill_n(scores, kRows * kTokens, 0.0F);
  for (std::size_t begin = 0; begin < kTokens; begin += kTokenBlock) {
    float* s0 = scores + begin;
    float* s1 = s0 + kTokens;
    float* s2 = s1 + kTokens;
    float* s3 = s2 + kTokens;
    for (std::size_t d = 0; d < kHeadDim; ++d) {
      const float* k = keys + d * kTokens + begin;
      const float* by = q + d;
      for (std::size_t t = 0; t < kTokenBlock; ++t) {
        s0[t] += by[0] * k[t];
        s1[t] += by[kHeadDim] * k[t];
        s2[t] += by[2 * kHeadDim] * k[t];
        s3[t] += by[3 * kHeadDim] * k[t];
      }
    }
  }
}

__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void f32_values(
    const float* values, const float* weights, const float* sums, float* out) {
  float acc[kHeadDim / kChannelBlock][kRows][kChannelBlock] = {};
  for (std::size_t t = 0; t < kTokens; ++t) {
    for (std::size_t block = 0; block < kHeadDim / kChannelBlock; ++block) {
      const float* v = values + t * kHeadDim + block * kChannelBlock;
      for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t i = 0; i < kChannelBlock; ++i) {
          acc[block][r][i] += weights[r * kTokens + t] * v[i];
        }
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t d = 0; d < kHeadDim; ++d) {
      out[r * kHeadDim + d] = acc[d / kChannelBlock][r][d % kChannelBlock] / sums[r];
    }
  }
}

void f32_head(const kernels::KernelTable& table, const float* keys, const float* values,
              const float* q, float* scores, float* out) {
  f32_scores(keys, q, scores);
  float sums[kRows];
  for (std::size_t r = 0; r < kRows; ++r) {
    table.softmax_weights(
        {scores + r * kTokens, kTokens, 1 / std::sqrt(static_cast<float>(kHeadDim)), &sums[r]});
  }
  f32_values(values, scores, sums, out);
}

void run_f32(benchmark::State& state, Executor& executor) {
  const std::vector<float>& x = tokens(executor);
  const kernels::KernelTable& table = *kernels::select().table;
  const std::vector<std::vector<float>> layers(2 * kF32Layers, x);  // keys, values, keys, ...
  std::vector<float> scores(kHeads * kTokens);
  std::vector<float> out(kHeads * kHeadDim);
  std::size_t layer = 0;
  for (auto _ : state) {
    executor.parallel_for(kKvHeads, [&](std::size_t head) {
      const std::size_t at = head * kHeadDim * kTokens;
      f32_head(table, &layers[2 * layer][at], &layers[2 * layer + 1][at],
               &x[head * kRows * kHeadDim], &scores[head * kRows * kTokens],
               &out[head * kRows * kHeadDim]);
    });
    benchmark::ClobberMemory();
    layer = (layer + 1) % kF32Layers;
  }
  report(state, 2 * x.size() * sizeof(float));
}

}  // namespace

void add_attention_rows(Executor& executor) {
  const auto add = [&](const std::string& name, const auto& run) {
    benchmark::RegisterBenchmark(name.c_str(), run)->UseRealTime()->Unit(benchmark::kMicrosecond);
  };
  for (const FormatFamily& family : format_families()) {
    const AnyFormat format = parse_format(family.name);
    for (const ValueGroups groups : {ValueGroups::tokens, ValueGroups::head_dim}) {
      const char* along = groups == ValueGroups::tokens ? "tokens" : "head_dim";
      add(fmt::format("append/{}/{}", family.name, along), [=, &executor](benchmark::State& state) {
        run_append(state, {format, format, groups, Path::a8, {}}, executor);
      });
      for (const Path path : {Path::a8, Path::a16, Path::a32}) {
        for (const TargetInfo& target : list_targets()) {
          if (!target.supported) continue;
          add(fmt::format("attention/{}/{}/{}/{}", family.name, along, path_name(path),
                          target.name),
              [=, &executor](benchmark::State& state) {
                run_attention(state, {format, format, groups, path, target.name}, executor);
              });
        }
      }
    }
  }
  add("attention/f32", [&executor](benchmark::State& state) { run_f32(state, executor); });
}

}  // namespace nybble::bench
