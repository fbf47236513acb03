#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "bench/peers/peer.h"

namespace nybble::peers {

/// Copies of f32 weights, one after the other in huge pages, for libraries that read the caller's
/// own array.
class FloatCopies {
 public:
  explicit FloatCopies(const Setup& setup)
      : bytes_(setup.weights.rows * setup.weights.cols * sizeof(float)),
        stride_((bytes_ + kAlignment - 1) / kAlignment * kAlignment),
        count_(setup.copies(bytes_)) {
    const std::size_t padded = (count_ * stride_ + kHugePage - 1) / kHugePage * kHugePage;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kHugePage, padded)));
    if (!memory_) throw std::bad_alloc();
    madvise(memory_.get(), padded, MADV_HUGEPAGE);  // a wish: without huge pages it works, too
    for (std::size_t i = 0; i < count_; ++i) {
      std::memcpy(memory_.get() + i * stride_, setup.weights.data, bytes_);
    }
  }

  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] const float* operator[](std::size_t copy) const {
    return reinterpret_cast<const float*>(memory_.get() + copy * stride_);
  }

 private:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::size_t bytes_, stride_, count_;
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace nybble::peers
