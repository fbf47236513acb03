#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nybble {

/// `bytes` rounded up to whole cache lines: what keeps pieces of one block 64-byte aligned.
constexpr std::size_t round_to_cache_line(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

/// Uninitialised, 64-byte aligned memory; from 2 MiB on aligned to huge pages and, on Linux, fresh
/// from the system and asked to lie in them: what malloc recycles keeps its 4 KiB pages. Reading
/// weights from those was measured up to 1.8x slower on a busy machine.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t bytes)
      : data_(bytes < kHugePage ? allocate(bytes, 64) : allocate_huge(bytes)), bytes_(bytes) {
    if (!data_) throw std::bad_alloc();
  }
  [[nodiscard]] std::uint8_t* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }

 private:
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  struct Free {
    std::size_t mapped;  ///< bytes to unmap; 0: from aligned_alloc
    void operator()(std::uint8_t* p) const noexcept {
#if defined(__linux__)
      if (mapped != 0) {
        munmap(p, mapped);
        return;
      }
#endif
      std::free(p);
    }
  };
  using Memory = std::unique_ptr<std::uint8_t, Free>;

  static Memory allocate(std::size_t bytes, std::size_t alignment) {
    const std::size_t size = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment;
    return {static_cast<std::uint8_t*>(std::aligned_alloc(alignment, size * alignment)), Free{0}};
  }

  static Memory allocate_huge(std::size_t bytes) {
#if defined(__linux__)
    const std::size_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    // One huge page more than needed, so that an aligned run is in it; the rest goes back.
    void* mapped =
        mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return {nullptr, Free{0}};
    auto* begin = static_cast<std::uint8_t*>(mapped);
    const std::size_t before = -reinterpret_cast<std::uintptr_t>(begin) % kHugePage;
    if (before != 0) munmap(begin, before);
    munmap(begin + before + size, kHugePage - before);
    madvise(begin + before, size, MADV_HUGEPAGE);
    return {begin + before, Free{size}};
#else
    return allocate(bytes, kHugePage);
#endif
  }

  Memory data_;
  std::size_t bytes_ = 0;
};

}  // namespace nybble
