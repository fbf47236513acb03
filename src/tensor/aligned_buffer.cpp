#include "src/tensor/aligned_buffer.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nybble {

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
/// Rounding this to pages is less than 2 %.
constexpr std::size_t kLeastShared = std::size_t{256} << 10;
/// More than any memory, and room to round up.
constexpr std::size_t kMost = SIZE_MAX / 2;

constexpr std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

#if defined(__linux__)

/// Addresses from mmap, given out from the first to the last; memory only where it is touched.
class AlignedBuffer::Region {
 public:
  /// Throws std::bad_alloc.
  explicit Region(std::size_t bytes) : bytes_(bytes) {
    // One huge page more than needed, so that an aligned run is in it; the rest goes back.
    void* mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    auto* begin = static_cast<std::uint8_t*>(mapped);
    const std::size_t before = -reinterpret_cast<std::uintptr_t>(begin) % kHugePage;
    if (before != 0) munmap(begin, before);
    begin_ = begin + before;
    munmap(begin_ + bytes, kHugePage - before);
    madvise(begin_, bytes, MADV_HUGEPAGE);
  }
  ~Region() {
    if (bytes_ != 0) munmap(begin_, bytes_);
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  /// Null where that is not left.
  std::uint8_t* take(std::size_t bytes) {
    if (bytes > bytes_ - used_) return nullptr;
    std::uint8_t* out = begin_ + used_;
    used_ += bytes;
    ++buffers_;
    return out;
  }
  /// Nothing more is taken: what is left goes back, and with it the rest of the last huge page.
  void close() {
    if (used_ != bytes_) munmap(begin_ + used_, bytes_ - used_);
    bytes_ = used_;
  }
  /// Gives a buffer's memory back to the system; its addresses are used again only where it is the
  /// last one.
  void release(std::uint8_t* begin, std::size_t bytes) noexcept {
    const std::scoped_lock lock(mutex());
    madvise(begin, bytes, MADV_DONTNEED);
    if (--buffers_ == 0) {
      used_ = 0;
    } else if (begin + bytes == begin_ + used_) {
      used_ -= bytes;
    }
  }
  /// Of take and release, of all regions. Never destroyed: buffers of static objects may outlive
  /// it.
  static std::mutex& mutex() {
    static auto& all = *new std::mutex;
    return all;
  }

 private:
  std::uint8_t* begin_ = nullptr;
  std::size_t bytes_;
  std::size_t used_ = 0;
  std::size_t buffers_ = 0;
};

AlignedBuffer::Memory AlignedBuffer::allocate_pages(std::size_t bytes, Pages pages) {
  constexpr std::size_t kShared = std::size_t{64} << 20;
  static auto& current = *new std::shared_ptr<Region>;  // never destroyed, as the mutex
  const std::scoped_lock lock(Region::mutex());
  // Half of a region and more is worth one of its own.
  const bool own = pages == Pages::own || bytes >= kShared / 2;
  std::shared_ptr<Region> region = own ? std::make_shared<Region>(bytes) : current;
  std::uint8_t* data = region ? region->take(bytes) : nullptr;
  if (data == nullptr) {
    if (current) current->close();
    region = current = std::make_shared<Region>(kShared);
    data = region->take(bytes);
  }
  return {data, Free{std::move(region), bytes}};
}

#else

class AlignedBuffer::Region {
 public:
  void release(std::uint8_t* /*begin*/, std::size_t /*bytes*/) noexcept {}
};

AlignedBuffer::Memory AlignedBuffer::allocate_pages(std::size_t bytes, Pages /*pages*/) {
  const std::size_t alignment = bytes < kHugePage ? kPage : kHugePage;
  auto* data =
      static_cast<std::uint8_t*>(std::aligned_alloc(alignment, round_up(bytes, alignment)));
  return {data, Free{nullptr, bytes}};
}

#endif

void AlignedBuffer::Free::operator()(std::uint8_t* p) const noexcept {
  if (region == nullptr) {
    std::free(p);
  } else {
    region->release(p, bytes);
  }
}

AlignedBuffer::AlignedBuffer(std::size_t bytes, Pages pages) : bytes_(bytes) {
  if (bytes > kMost) throw std::bad_alloc();
  if (bytes >= (pages == Pages::own ? kHugePage : kLeastShared)) {
    held_ = round_up(bytes, kPage);
    data_ = allocate_pages(held_, pages);
  } else {
    held_ = round_up(std::max<std::size_t>(bytes, 1), 64);
    data_ = Memory(static_cast<std::uint8_t*>(std::aligned_alloc(64, held_)), Free{nullptr, held_});
  }
  if (!data_) throw std::bad_alloc();
}

}  // namespace nybble
