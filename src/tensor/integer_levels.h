#pragma once

#include <array>
#include <cstdint>

namespace nybble {

/// A codebook as small integers: level ~ integer * step, |integer| <= 127.
struct IntegerLevels {
  std::array<std::int8_t, 16> integer{};
  float step = 1;
  bool exact = false;  ///< level == integer * step for every code
};

/// Exact where a small multiple of every level is an integer; else level * 127 / peak rounded,
/// which moves a level by at most peak / 254.
IntegerLevels integer_levels(const std::array<float, 16>& levels);

}  // namespace nybble
