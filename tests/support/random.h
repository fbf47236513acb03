#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <vector>

namespace nybble::test {

/// splitmix64: the same numbers with every compiler and library, which std::normal_distribution
/// does not promise.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    state_ += 0x9E3779B97F4A7C15U;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  /// In [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  /// In [0, count).
  std::size_t index(std::size_t count) { return static_cast<std::size_t>(bits() % count); }
  /// N(0, 1), by Box and Muller.
  float normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return static_cast<float>(radius * std::cos(2 * std::numbers::pi * uniform()));
  }

 private:
  std::uint64_t state_;
};

inline std::vector<float> normal_values(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> out(count);
  for (float& x : out) x = random.normal();
  return out;
}

/// Student's t with about 2 degrees of freedom: a few values dwarf the rest.
inline std::vector<float> heavy_tailed_values(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> out(count);
  for (float& x : out) {
    x = random.normal() / std::sqrt(static_cast<float>(-std::log(1 - random.uniform())) + 1e-4F);
  }
  return out;
}

/// Normal, and in every hundredth place a value fifty times as large.
inline std::vector<float> outlier_values(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> out(count);
  for (float& x : out) x = random.normal() * (random.index(100) == 0 ? 50.0F : 1.0F);
  return out;
}

/// Everything finite that arithmetic can trip over: zeros of both signs, subnormals, the ends of
/// f32, exact halves and quarters, in runs of magnitude that change every few dozen values.
inline std::vector<float> nasty_values(std::size_t count, std::uint64_t seed) {
  using Limits = std::numeric_limits<float>;
  static constexpr std::array<float, 14> kSpecial = {0.0F,
                                                     -0.0F,
                                                     Limits::denorm_min(),
                                                     -Limits::denorm_min(),
                                                     Limits::min(),
                                                     -Limits::min(),
                                                     Limits::max(),
                                                     Limits::lowest(),
                                                     1e-40F,
                                                     -3e-39F,
                                                     1e30F,
                                                     -0.25F,
                                                     1.5F,
                                                     -2.5F};
  Random random(seed);
  std::vector<float> out(count);
  std::size_t mode = 0;
  float magnitude = 1;
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 24 == 0) {
      mode = random.index(6);
      magnitude = std::ldexp(1.0F, static_cast<int>(random.index(270)) - 145);
    }
    switch (mode) {
      case 0:
        out[i] = kSpecial[random.index(kSpecial.size())];
        break;
      case 1:
        out[i] = random.index(2) == 0 ? 0.0F : -0.0F;
        break;
      case 2:
        out[i] = static_cast<float>(static_cast<int>(random.index(33)) - 16) * 0.25F;
        break;
      case 3:
        out[i] = std::fabs(random.normal()) * (magnitude > 1 ? 1.0F : -1.0F);
        break;
      default:
        // Up to 2^126, which eight standard deviations cannot lift past the end of f32.
        out[i] = random.normal() * std::fmin(magnitude, 0x1p120F);
        break;
    }
  }
  return out;
}

struct ValueGenerator {
  const char* name;
  std::function<std::vector<float>(std::size_t count, std::uint64_t seed)> make;
};

inline const std::array<ValueGenerator, 4>& value_generators() {
  static const std::array<ValueGenerator, 4> all = {{{"normal", normal_values},
                                                     {"heavy_tailed", heavy_tailed_values},
                                                     {"outliers", outlier_values},
                                                     {"nasty", nasty_values}}};
  return all;
}

}  // namespace nybble::test
