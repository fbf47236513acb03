#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace nybble {

/// `bytes` rounded up to whole cache lines: what keeps pieces of one block 64-byte aligned.
constexpr std::size_t round_to_cache_line(std::size_t bytes) {
  return bytes > SIZE_MAX - 63 ? SIZE_MAX : (bytes + 63) / 64 * 64;
}

/// Uninitialised, 64-byte aligned memory. Large buffers are whole pages that, on Linux, come fresh
/// from the system and are asked to lie in huge pages: what malloc recycles keeps its 4 KiB pages,
/// and reading weights from those was measured up to 1.8x slower on a busy machine. No buffer is
/// rounded up to huge pages; what is destroyed goes back to the system.
class AlignedBuffer {
 public:
  enum class Pages {
    own,     ///< from 2 MiB on: the part of the last huge page is in small ones
    shared,  ///< from 256 KiB on: buffers of this kind lie one behind the other, for what lives
             ///< long
  };

  AlignedBuffer() = default;
  /// Throws std::bad_alloc.
  explicit AlignedBuffer(std::size_t bytes, Pages pages = Pages::own);
  AlignedBuffer(AlignedBuffer&& other) noexcept { *this = std::move(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    bytes_ = std::exchange(other.bytes_, 0);
    held_ = std::exchange(other.held_, 0);
    return *this;
  }

  [[nodiscard]] std::uint8_t* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }
  /// What it takes of memory: its size rounded up to pages or cache lines.
  [[nodiscard]] std::size_t held() const noexcept { return held_; }

 private:
  class Region;
  struct Free {
    std::shared_ptr<Region> region;  ///< null: from aligned_alloc
    std::size_t bytes;
    void operator()(std::uint8_t* p) const noexcept;
  };
  using Memory = std::unique_ptr<std::uint8_t, Free>;
  static Memory allocate_pages(std::size_t bytes, Pages pages);

  Memory data_;
  std::size_t bytes_ = 0;
  std::size_t held_ = 0;
};

}  // namespace nybble
