#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/random_normal.h"
#include "bench/rows.h"
#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/linear/grouped_linear.h"
#include "nybble/quantize/rtn.h"

namespace nybble::bench {

namespace {

// The gate and up projection of gpt-oss 20B.
constexpr std::size_t kExperts = 32;
constexpr std::size_t kTop = 4;
constexpr std::size_t kN = 5760;
constexpr std::size_t kK = 2880;
constexpr std::size_t kTokens[] = {1, 8, 64, 512};
/// Routings that take turns, so that few tokens meet experts that are in no cache.
constexpr std::size_t kRoutings = 16;

/// kTop different experts for each token.
std::vector<std::uint32_t> random_routes(std::size_t tokens, std::mt19937& random) {
  std::vector<std::uint32_t> experts(kExperts), out;
  for (std::uint32_t e = 0; e < kExperts; ++e) experts[e] = e;
  for (std::size_t m = 0; m < tokens; ++m) {
    std::shuffle(experts.begin(), experts.end(), random);
    out.insert(out.end(), experts.begin(), experts.begin() + kTop);
  }
  return out;
}

std::vector<QuantizedMatrix> random_experts(Executor& executor) {
  std::vector<QuantizedMatrix> out;
  for (std::uint32_t e = 0; e < kExperts; ++e) {
    const std::vector<float> values = random_normal(kN, kK, 0.02F, e, executor);
    out.push_back(quantize_rtn({values.data(), kN, kK}, parse_format("mxfp4"), executor));
  }
  return out;
}

/// `run`(x, routes, y) with routings that take turns.
template <class Run>
void time_routings(benchmark::State& state, std::size_t m, std::size_t expert_bytes,
                   Executor& executor, Run run) {
  const std::vector<float> x = random_normal(m, kK, 1, 2, executor);
  std::vector<float> y(m * kTop * kN);
  std::mt19937 random(1);
  std::vector<std::vector<std::uint32_t>> routings(kRoutings);
  std::size_t touched = 0;
  for (auto& routes : routings) {
    routes = random_routes(m, random);
    std::vector<std::uint32_t> used = routes;
    std::sort(used.begin(), used.end());
    touched += static_cast<std::size_t>(std::unique(used.begin(), used.end()) - used.begin());
  }
  std::size_t turn = 0;
  for (auto _ : state) {
    run({x.data(), m, kK}, routings[turn], {y.data(), m * kTop, kN});
    benchmark::ClobberMemory();
    turn = (turn + 1) % kRoutings;
  }
  using benchmark::Counter;
  state.counters["flops"] =
      Counter(2.0 * static_cast<double>(m * kTop * kN * kK), Counter::kIsIterationInvariantRate);
  state.counters["weight_bytes"] = Counter(static_cast<double>(touched * expert_bytes) / kRoutings,
                                           Counter::kIsIterationInvariantRate);
}

void run_grouped(benchmark::State& state, const LinearOptions& options, std::size_t m,
                 Executor& executor) {
  static std::map<Path, std::unique_ptr<GroupedLinear>> known;
  std::unique_ptr<GroupedLinear>& layer = known[options.path];
  if (!layer) {
    layer = std::make_unique<GroupedLinear>(random_experts(executor), options, executor);
  }
  Workspace workspace;
  time_routings(state, m, layer->packed_bytes() / kExperts, executor,
                [&](MatrixView x, const std::vector<std::uint32_t>& routes, MutableMatrixView y) {
                  layer->run(x, routes, y, workspace, executor);
                });
  state.SetLabel(layer->kernel());
}

/// What there is without GroupedLinear: gather an expert's rows, run its layer, scatter.
void run_loop(benchmark::State& state, const LinearOptions& options, std::size_t m,
              Executor& executor) {
  static std::map<Path, std::vector<QuantizedLinear>> known;
  std::vector<QuantizedLinear>& layers = known[options.path];
  if (layers.empty()) {
    for (const QuantizedMatrix& expert : random_experts(executor)) {
      layers.emplace_back(expert, options, executor);
    }
  }
  Workspace workspace;
  std::vector<float> gathered(m * kTop * kK), out(m * kTop * kN);
  std::vector<std::size_t> rows;
  time_routings(state, m, layers[0].packed_bytes(), executor,
                [&](MatrixView x, const std::vector<std::uint32_t>& routes, MutableMatrixView y) {
                  for (std::size_t e = 0; e < kExperts; ++e) {
                    rows.clear();
                    for (std::size_t r = 0; r < routes.size(); ++r) {
                      if (routes[r] == e) rows.push_back(r);
                    }
                    if (rows.empty()) continue;
                    for (std::size_t i = 0; i < rows.size(); ++i) {
                      std::copy_n(x.row(rows[i] / kTop), kK, &gathered[i * kK]);
                    }
                    layers[e].run({gathered.data(), rows.size(), kK}, {out.data(), rows.size(), kN},
                                  workspace, executor);
                    for (std::size_t i = 0; i < rows.size(); ++i) {
                      std::copy_n(&out[i * kN], kN, y.row(rows[i]));
                    }
                  }
                });
  state.SetLabel(layers[0].kernel());
}

}  // namespace

void add_grouped_rows(Executor& executor) {
  for (const Path path : {Path::a8, Path::a16, Path::a4}) {
    for (const std::size_t m : kTokens) {
      const auto add = [&](const char* way, const auto& run) {
        const std::string name = fmt::format("{}/mxfp4/{}/m:{}", way, path_name(path), m);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [=, &executor](benchmark::State& state) {
                                       run(state, LinearOptions{.path = path}, m, executor);
                                     })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      };
      add("grouped", run_grouped);
      add("grouped_loop", run_loop);
    }
  }
}

}  // namespace nybble::bench
