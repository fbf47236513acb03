// Times nybble's GPTQ and AWQ on one layer beside the references' algorithms in Eigen.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "bench/limits/limits.h"
#include "bench/random_normal.h"
#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "nybble/quantize/method.h"
#ifdef NYBBLE_REFERENCE
#include "bench/calibrated/reference.h"
#endif

namespace nybble::bench {
namespace {

struct Options {
  std::size_t n = 4096, k = 4096, tokens = 4096, group = 128, threads = 0;
};

template <class Work>
double seconds_of(const Work& work) {
  const auto begun = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

/// Inputs with correlated channels, twenty of them large.
std::vector<float> make_inputs(const Options& options, std::uint32_t seed, Executor& executor) {
  const std::size_t rank = options.k / 8 + 1;
  const std::vector<float> mixing = random_normal(rank, options.k, 1, 5, executor);
  const std::vector<float> hidden = random_normal(options.tokens, rank, 1, seed, executor);
  std::vector<float> x = random_normal(options.tokens, options.k, 0.3F, seed + 1, executor);
  executor.parallel_for(options.tokens, [&](std::size_t t) {
    float* row = &x[t * options.k];
    for (std::size_t r = 0; r < rank; ++r) {
      const float by = hidden[t * rank + r] / std::sqrt(static_cast<float>(rank));
      for (std::size_t i = 0; i < options.k; ++i) row[i] += by * mixing[r * options.k + i];
    }
    for (std::size_t i = 0; i < options.k; i += options.k / 20 + 1) row[i] *= 12;
  });
  return x;
}

void print(const std::string& name, double seconds, double db, double reference, double flops,
           double peak) {
  fmt::print("{:<44} {:>8.2f} s {:>7.2f} dB", name, seconds, db);
  if (reference > 0) fmt::print(" {:>7.1f} x", reference / seconds);
  if (flops > 0) fmt::print("   {:.0f} % of the FMA peak", 100 * flops / seconds / peak);
  fmt::print("\n");
}

void run(const Options& options) {
  const auto executor = make_thread_executor(options.threads);
  const std::vector<float> w = random_normal(options.n, options.k, 0.02F, 1, *executor);
  const std::vector<float> x = make_inputs(options, 2, *executor);
  const std::vector<float> x_test = make_inputs(options, 9, *executor);
  const MatrixView weight(w.data(), options.n, options.k);
  const MatrixView inputs(x.data(), options.tokens, options.k);
  const MatrixView test(x_test.data(), std::min<std::size_t>(options.tokens, 64), options.k);
  const AnyFormat format =
      parse_format(fmt::format("int4:group={},zero_point=true,scale=f32", options.group));
  const double peak = 1e9 * limits::peak_gops(limits::Arithmetic::f32, select_target(), *executor);
  fmt::print("{} x {}, group {}, {} tokens, {} threads, {:.0f} GFLOP/s of f32 FMA\n", options.n,
             options.k, options.group, options.tokens, executor->concurrency(), peak * 1e-9);
  fmt::print("{:<44} {:>10} {:>10} {:>9}\n", "", "time", "test SQNR", "faster");

  double gptq_reference = 0;
  double awq_reference = 0;
#ifdef NYBBLE_REFERENCE
  const auto reference_db = [&](const std::vector<float>& rounded) {
    // As a layer of effective weights: rounding is done, so any exact container would do.
    double signal = 0;
    double noise = 0;
    for (std::size_t t = 0; t < test.rows; ++t) {
      for (std::size_t row = 0; row < options.n; ++row) {
        double y = 0;
        double error = 0;
        for (std::size_t i = 0; i < options.k; ++i) {
          const auto value = static_cast<double>(test.at(t, i));
          y += value * static_cast<double>(weight.at(row, i));
          error += value * static_cast<double>(weight.at(row, i) - rounded[row * options.k + i]);
        }
        signal += y * y;
        noise += error * error;
      }
    }
    return 10 * std::log10(signal / noise);
  };
  std::vector<float> rounded = w;
  gptq_reference = seconds_of([&] {
    reference_gptq(rounded.data(), options.n, options.k, x.data(), options.tokens, options.group);
  });
  print("gptq, " NYBBLE_REFERENCE, gptq_reference, reference_db(rounded), 0, 0, 0);
  rounded = w;
  awq_reference = seconds_of([&] {
    reference_awq(rounded.data(), options.n, options.k, x.data(), options.tokens, options.group);
  });
  print("awq, " NYBBLE_REFERENCE, awq_reference, reference_db(rounded), 0, 0, 0);
#else
  fmt::print("Eigen was not found when this was configured: no reference\n");
#endif
  const auto n = static_cast<double>(options.n);
  const auto k = static_cast<double>(options.k);
  const auto tokens = static_cast<double>(options.tokens);
  // Moments, Cholesky factor and triangular inverse, updates.
  const double gptq_flops = tokens * k * k + 2 * k * k * k / 3 + n * k * k;
  const auto ours = [&](const char* spec, double reference, double flops) {
    std::optional<QuantizedLayer> layer;
    const double seconds = seconds_of([&] {
      Calibration calibration(options.k);
      calibration.add(inputs, *executor);
      layer = quantize_layer(weight, format, Method(spec), &calibration, *executor);
    });
    print(fmt::format("nybble {}", spec), seconds,
          output_sqnr_db(test, weight, *layer, {}, *executor), reference, flops, peak);
  };
  ours(
      "gptq:order=natural,static_groups=false,stale_groups=true,scales=range,damp=0.01,refine=none",
      gptq_reference, gptq_flops);
  ours("gptq:scales=range,damp=0.01,refine=none", gptq_reference, gptq_flops);
  ours("gptq:damp=0.01,refine=cd", gptq_reference, 0);
  ours("gptq:channel_scale=false", gptq_reference, 0);
  ours("awq:always=true+rtn", awq_reference, 0);
  ours("awq+gptq", awq_reference + gptq_reference, 0);
}

}  // namespace
}  // namespace nybble::bench

int main(int argc, char** argv) {
  nybble::bench::Options options;
  CLI::App app("GPTQ and AWQ of one layer, nybble and the references' algorithms in Eigen");
  app.add_option("--n", options.n, "rows of the weight");
  app.add_option("--k", options.k, "columns of the weight");
  app.add_option("--tokens", options.tokens, "calibration tokens");
  app.add_option("--group", options.group, "16, 32, 64 or 128");
  app.add_option("--threads", options.threads, "0 = all");
  CLI11_PARSE(app, argc, argv);
  try {
    nybble::bench::run(options);
  } catch (const nybble::Error& error) {
    fmt::print(stderr, "nybble_calibrated: {}\n", error.what());
    return 2;
  }
}
