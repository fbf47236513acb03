#pragma once

#include <array>
#include <cstddef>
#include <limits>
#include <map>
#include <span>

#include "nybble/executor.h"
#include "nybble/tensor/quantized_matrix.h"

namespace nybble {

/// What a run of numbers holds. Independent of the number of threads, as all counts are.
struct ValueStatistics {
  std::size_t count = 0;
  std::size_t nan = 0;
  std::size_t inf = 0;
  std::size_t zero = 0;      ///< +0 and -0
  std::size_t negative = 0;  ///< below 0, -Inf included
  std::size_t denormal = 0;  ///< not 0, but smaller than the type's smallest normal number
  /// Of the finite ones; Inf and -Inf where there is none.
  float smallest = std::numeric_limits<float>::infinity();
  float largest = -std::numeric_limits<float>::infinity();
  /// How many have floor(log2 |x|) = key, of those that are finite and not 0.
  std::map<int, std::size_t> octaves;

  [[nodiscard]] std::size_t finite() const { return count - nan - inf; }
  /// Adds what another run holds.
  void merge(const ValueStatistics& other);
};

/// `smallest_normal` is that of the type the values are stored in: 2^-126 for f32 and bf16.
ValueStatistics value_statistics(std::span<const float> values, float smallest_normal,
                                 Executor& executor);

/// The smallest normal number of a scale type: 2^-126 for f32, 2^-14 for f16. E8M0 has no others.
float smallest_normal(ScaleType type);

/// What a quantized matrix holds, its padding left out.
struct QuantizedStatistics {
  std::array<std::size_t, 16> codes{};
  /// Of the groups; all 0 unless the layout is zero_point. Values beyond 15 are left out.
  std::array<std::size_t, 16> zero_points{};
  /// Of the groups' scales, decoded, without the tensor scale; sign-split formats: both signs'.
  ValueStatistics scales;
  /// Codes that stand for the largest or the smallest level: what clipped is among them, and so is
  /// the maximum of most groups.
  std::size_t end_codes = 0;

  [[nodiscard]] std::size_t elements() const;
  void merge(const QuantizedStatistics& other);
};

/// Throws bad_shape as QuantizedMatrix::check.
QuantizedStatistics quantized_statistics(const QuantizedMatrix& matrix, Executor& executor);

}  // namespace nybble
