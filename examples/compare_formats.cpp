// Every registered format on the same data: bits a weight and signal to quantization noise, for
// normal weights and for weights where one channel of 64 is twenty times as large.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "nybble/nybble.h"

namespace {

constexpr std::size_t kRows = 64;
constexpr std::size_t kCols = 1024;

/// 10 log10(signal power / noise power), in dB: 6 dB are worth one bit.
double sqnr(const std::vector<float>& exact, const std::vector<float>& approximate) {
  double signal = 0;
  double noise = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    signal += std::pow(exact[i], 2);
    noise += std::pow(static_cast<double>(exact[i]) - approximate[i], 2);
  }
  return 10 * std::log10(signal / noise);
}

struct Result {
  double bits;
  double sqnr;
};

Result measure(const std::vector<float>& weights, const nybble::AnyFormat& format) {
  nybble::SerialExecutor executor;
  const auto quantized = nybble::quantize_rtn({weights.data(), kRows, kCols}, format, executor);
  std::vector<float> values(weights.size());
  nybble::dequantize(quantized, {values.data(), kRows, kCols}, executor);
  return {quantized.bits_per_element(), sqnr(weights, values)};
}

}  // namespace

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> plain(kRows * kCols);
  for (float& value : plain) value = normal(random);
  std::vector<float> outliers = plain;
  for (std::size_t i = 0; i < outliers.size(); i += 64) outliers[i] *= 20;

  std::vector<std::string> specs;
  for (const nybble::FormatFamily& family : nybble::format_families()) specs.push_back(family.name);
  for (const char* spec : {"int4:zero_point=true", "nf4:double=true", "mxfp4:search=mse",
                           "nvfp4:search=4over6", "amxfp4:search=mse"}) {
    specs.emplace_back(spec);
  }

  bool good = true;
  std::printf("%-22s %6s %11s %11s\n", "format", "bits", "normal dB", "outliers dB");
  for (const std::string& spec : specs) {
    const nybble::AnyFormat format = nybble::parse_format(spec);
    const Result on_plain = measure(plain, format);
    const Result on_outliers = measure(outliers, format);
    std::printf("%-22s %6.3f %11.2f %11.2f\n", spec.c_str(), on_plain.bits, on_plain.sqnr,
                on_outliers.sqnr);
    // 16 levels cannot beat the rate of 4.5 bits, and a format that misses 15 dB is broken.
    good = good && on_plain.sqnr > 15 && on_plain.sqnr < 27 && on_plain.bits < 5.5;
  }
  return good ? 0 : 1;
}
