// What an engine gets from nybble's headers, as bits on standard output: the same whether this file
// is compiled with -ffast-math or without.

#include <bit>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "nybble/numeric/bfloat16.h"
#include "nybble/numeric/e2m1.h"
#include "nybble/numeric/e4m3.h"
#include "nybble/numeric/e5m2.h"
#include "nybble/numeric/e8m0.h"
#include "nybble/numeric/float16.h"
#include "nybble/nybble.h"

namespace {

std::uint64_t hash = 14695981039346656037U;

void add(std::uint64_t value) { hash = (hash ^ value) * 1099511628211U; }
void add(float value) { add(std::uint64_t{std::bit_cast<std::uint32_t>(value)}); }
void print(const char* name) {
  std::printf("%s %016llx\n", name, static_cast<unsigned long long>(hash));
}

void numbers() {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    const auto byte = static_cast<std::uint8_t>(i);
    add(nybble::Float16{half}.to_float());
    add(nybble::BFloat16{half}.to_float());
    add(nybble::E4M3{byte}.to_float());
    add(nybble::E4M3x480{byte}.to_float());
    add(nybble::E5M2{byte}.to_float());
    add(nybble::E8M0{byte}.to_float());
  }
  print("decoded");
  std::uint32_t bits = 0;
  for (int i = 0; i < 1000000; ++i) {
    // Every exponent, NaN and Inf included.
    bits += 0x9E3779B9U;
    const auto value = std::bit_cast<float>(bits);
    add(std::uint64_t{nybble::Float16::from_float(value).bits});
    add(std::uint64_t{nybble::BFloat16::from_float(value).bits});
    add(std::uint64_t{nybble::E8M0::from_float(value).bits});
    for (const nybble::TieRule ties :
         {nybble::TieRule::even, nybble::TieRule::away, nybble::TieRule::zero}) {
      add(std::uint64_t{nybble::E4M3::from_float(value, ties).bits});
      add(std::uint64_t{nybble::E4M3x480::from_float(value, ties).bits});
      add(std::uint64_t{nybble::E5M2::from_float(value, ties).bits});
      if (!nybble::is_nan_bits(value)) add(std::uint64_t{nybble::e2m1_from_float(value, ties)});
    }
  }
  print("encoded");
}

void layers() {
  constexpr std::size_t kN = 48;
  constexpr std::size_t kK = 128;
  constexpr std::size_t kM = 3;
  nybble::SerialExecutor executor;
  nybble::Workspace workspace;
  std::uint32_t state = 1;
  const auto make = [&](std::size_t count) {
    std::vector<float> out(count);
    for (float& x : out) {
      state = state * 1664525U + 1013904223U;
      x = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
    }
    return out;
  };
  const std::vector<float> weight = make(kN * kK);
  const std::vector<float> x = make(kM * kK);
  for (const nybble::FormatFamily& family : nybble::format_families()) {
    const nybble::QuantizedMatrix matrix =
        nybble::quantize_rtn({weight.data(), kN, kK}, nybble::parse_format(family.name), executor);
    for (const std::uint8_t code : matrix.codes) add(std::uint64_t{code});
    for (const std::uint8_t scale : matrix.scales) add(std::uint64_t{scale});
    add(matrix.value(1, 1));
    std::vector<float> y(kM * kN);
    const nybble::QuantizedLinear layer(matrix, {}, executor);
    layer.run({x.data(), kM, kK}, {y.data(), kM, kN}, workspace, executor);
    for (const float value : y) add(value);
    print(family.name.c_str());
  }
}

/// Whether Inf and NaN are seen where they must be.
void refusals() {
  for (const std::uint32_t bits : {0x7F800000U, 0xFF800000U, 0x7FC00000U, 0x7F7FFFFFU}) {
    const std::vector<float> values = {1, std::bit_cast<float>(bits)};
    try {
      nybble::check_finite({values.data(), 1, 2}, "values");
      std::printf("%08x finite\n", static_cast<unsigned>(bits));
    } catch (const nybble::Error&) {
      std::printf("%08x refused\n", static_cast<unsigned>(bits));
    }
  }
}

}  // namespace

int main() {
  numbers();
  layers();
  refusals();
}
