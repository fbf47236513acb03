#pragma once

#include <cstddef>
#include <span>

#include "src/tensor/aligned_buffer.h"
#include "src/tensor/saturating.h"

namespace nybble {

/// Cuts typed arrays from a block of memory, each 64-byte aligned; from none, it only counts their
/// bytes, to SIZE_MAX at most.
class Carver {
 public:
  explicit Carver(std::byte* memory) : memory_(memory) {}
  template <class T>
  std::span<T> take(std::size_t rows, std::size_t cols = 1) {
    std::byte* at = rest();
    const std::size_t count = saturating_multiply(rows, cols);
    const std::size_t bytes = round_to_cache_line(saturating_multiply(count, sizeof(T)));
    used_ = saturating_add(used_, bytes);
    if (at == nullptr) return {};
    return {reinterpret_cast<T*>(at), count};
  }
  [[nodiscard]] std::byte* rest() const { return memory_ == nullptr ? nullptr : memory_ + used_; }
  [[nodiscard]] std::size_t used() const { return used_; }

 private:
  std::byte* memory_;
  std::size_t used_ = 0;
};

}  // namespace nybble
