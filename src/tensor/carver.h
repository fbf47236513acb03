#pragma once

#include <cstddef>
#include <span>

#include "src/tensor/aligned_buffer.h"

namespace nybble {

/// Cuts typed arrays from a block of memory, each 64-byte aligned; from none, it only counts their
/// bytes.
class Carver {
 public:
  explicit Carver(std::byte* memory) : memory_(memory) {}
  template <class T>
  std::span<T> take(std::size_t count) {
    std::byte* at = rest();
    used_ += round_to_cache_line(count * sizeof(T));
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
