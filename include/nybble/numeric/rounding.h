#pragma once

namespace nybble {

/// Every rounding in nybble goes to the nearest representable value. This decides the exact ties,
/// values half way between two neighbours.
enum class TieRule {
  even,  ///< to the neighbour whose last code bit is 0 (IEEE 754 roundTiesToEven, OCP MX)
  away,  ///< to the neighbour further from zero (IEEE 754 roundTiesToAway)
  zero,  ///< to the neighbour nearer to zero
};

}  // namespace nybble
