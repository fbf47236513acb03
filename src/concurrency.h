#pragma once

#include <algorithm>
#include <cstddef>

#include "nybble/executor.h"

namespace nybble {

/// Tasks that anything is split into for `said` of Executor::concurrency(): at least one, and no
/// more than any machine runs, so that multiples of it stay small numbers.
constexpr std::size_t sane_concurrency(std::size_t said) {
  return std::clamp<std::size_t>(said, 1, std::size_t{1} << 16);
}
/// All of the library asks executors through this.
inline std::size_t concurrency_of(const Executor& executor) {
  return sane_concurrency(executor.concurrency());
}

}  // namespace nybble
