// A format of your own in twenty lines, at once in every quantizer and every kernel of every
// target.
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <vector>

#include "nybble/format/block_format.h"
#include "nybble/nybble.h"

namespace {

/// Additive powers of two (arXiv 1909.13144): a magnitude is one of {0, 1, 4, 16} plus one of
/// {0, 8}, so that hardware multiplies with two shifts; bit 3 of a code is the sign. As the levels
/// are integers up to 127, the integer kernels are exact.
struct ApotLevels {
  static constexpr const char* kName = "apot";
  static constexpr std::array<float, 16> kLevels = {0,     1,  4,  8,  9,  12,  16,  24,
                                                    -0.0F, -1, -4, -8, -9, -12, -16, -24};
};

nybble::AnyFormat make_apot(nybble::SpecOptions& options) {
  const std::size_t group = options.group("group", {32, 64, 128});
  options.finish();
  return nybble::BlockFormat<ApotLevels, nybble::AbsmaxScale>(
      options.canonical(), group, nybble::LevelTies::even,
      nybble::AbsmaxScale(nybble::ScaleType::f16));
}

}  // namespace

int main() {
  nybble::register_format({"apot", "additive powers of two", "group=32|64|128", make_apot});
  const nybble::AnyFormat format = nybble::parse_format("apot:group=64");

  constexpr std::size_t kRows = 512, kCols = 512;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> w(kRows * kCols);
  for (float& value : w) value = normal(random);
  std::vector<float> x(kCols);
  for (float& value : x) value = normal(random);
  std::vector<double> exact(kRows);
  for (std::size_t i = 0; i < w.size(); ++i) exact[i / kCols] += double{w[i]} * x[i % kCols];

  const nybble::MatrixView weights(w.data(), kRows, kCols);
  nybble::SerialExecutor executor;
  nybble::Workspace workspace;
  bool good = true;
  std::printf("relative error of the outputs, weights in %s\n", format.info().spec.c_str());
  for (const bool search : {false, true}) {
    const auto matrix = search ? nybble::quantize_clip_search(weights, format, executor)
                               : nybble::quantize_rtn(weights, format, executor);
    for (const nybble::TargetInfo& target : nybble::list_targets()) {
      if (!target.supported) continue;
      std::printf("%-12s %-11s", search ? "clip search" : "rtn", target.name.c_str());
      for (const char* path : {"a8", "a16", "a32", "a4"}) {
        nybble::LinearOptions options;
        options.path = nybble::parse_path(path);
        options.target = target.name;
        std::vector<float> y(kRows);
        nybble::QuantizedLinear(matrix, options, executor)
            .run({x.data(), 1, kCols}, {y.data(), 1, kRows}, workspace, executor);
        double noise = 0;
        double signal = 0;
        for (std::size_t row = 0; row < kRows; ++row) {
          noise += std::pow(y[row] - exact[row], 2);
          signal += std::pow(exact[row], 2);
        }
        const double error = std::sqrt(noise / signal);
        std::printf("  %s %.4f", path, error);
        good = good && error < (options.path == nybble::Path::a4 ? 0.25 : 0.18);
      }
      std::printf("\n");
    }
  }
  return good ? 0 : 1;
}
