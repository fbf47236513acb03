#include "src/tensor/aligned_buffer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/random.h"
#include "tests/support/sanitized.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nybble::test {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST(AlignedBuffer, EverySizeIsAlignedAndWritable) {
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{1}, std::size_t{65}, kMiB / 4 - 1, kMiB / 4, 2 * kMiB - 1,
        2 * kMiB, 2 * kMiB + 1, 5 * kMiB, 31 * kMiB + 77, 32 * kMiB, 70 * kMiB + 1}) {
    for (const auto pages : {AlignedBuffer::Pages::own, AlignedBuffer::Pages::shared}) {
      AlignedBuffer buffer(bytes, pages);
      EXPECT_EQ(buffer.size(), bytes);
      EXPECT_GE(buffer.held(), bytes);
      if (bytes > 4096) {
        EXPECT_LE(static_cast<double>(buffer.held()), 1.03 * static_cast<double>(bytes));
      }
      const bool own = pages == AlignedBuffer::Pages::own;
      const std::size_t alignment = own                 ? bytes >= 2 * kMiB ? 2 * kMiB : 64
                                    : bytes >= kMiB / 4 ? 4096
                                                        : 64;
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % alignment, 0U);
      std::memset(buffer.data(), 0x5A, bytes);
      std::uint8_t* data = buffer.data();
      AlignedBuffer moved = std::move(buffer);
      EXPECT_EQ(moved.data(), data);
      EXPECT_EQ(buffer.data(), nullptr);
      EXPECT_EQ(buffer.size() + buffer.held(), 0U);
      if (bytes != 0) {
        EXPECT_EQ(data[bytes - 1], 0x5A);
      }
    }
  }
  EXPECT_EQ(AlignedBuffer().data(), nullptr);
}

/// Buffers of all sizes, made and destroyed in any order by several threads, keep to themselves.
TEST(AlignedBuffer, DoNotOverlap) {
  const auto work = [](std::uint64_t seed) {
    Random random(seed);
    struct Marked {
      AlignedBuffer buffer;
      std::uint8_t mark;
    };
    std::vector<Marked> all;
    for (int i = 0; i < 300; ++i) {
      if (all.size() > 12 || (!all.empty() && random.index(3) == 0)) {
        const std::size_t at = random.index(all.size());
        const AlignedBuffer& buffer = all[at].buffer;
        ASSERT_EQ(buffer.data()[0], all[at].mark);
        ASSERT_EQ(buffer.data()[buffer.size() / 2], all[at].mark);
        ASSERT_EQ(buffer.data()[buffer.size() - 1], all[at].mark);
        std::swap(all[at], all.back());
        all.pop_back();
        continue;
      }
      AlignedBuffer buffer(
          1 + random.index(random.index(4) == 0 ? 40 * kMiB : 3 * kMiB),
          random.index(4) == 0 ? AlignedBuffer::Pages::own : AlignedBuffer::Pages::shared);
      const auto mark = static_cast<std::uint8_t>(1 + random.index(255));
      for (const std::size_t place : {std::size_t{0}, buffer.size() / 2, buffer.size() - 1}) {
        buffer.data()[place] = mark;
      }
      all.push_back({std::move(buffer), mark});
    }
  };
  std::thread other(work, 1);
  work(2);
  other.join();
}

#if defined(__linux__)

/// What /proc/self/smaps says of the mapping that holds `p`: bytes in huge pages, or -1.
long huge_bytes(const void* p) {
  std::ifstream smaps("/proc/self/smaps");
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    char dash = 0;
    std::istringstream fields(line);
    if (fields >> std::hex >> begin >> dash >> end && dash == '-') {
      inside = begin <= address && address < end;
    } else if (inside && line.rfind("AnonHugePages:", 0) == 0) {
      return std::stol(line.substr(14)) * 1024;
    }
  }
  return -1;
}

/// Bytes that touching the memory put into huge pages; neighbours in the same mapping do not count.
long huge_bytes_by_touching(std::uint8_t* p, std::size_t bytes) {
  const long before = huge_bytes(p);
  std::memset(p, 1, bytes);
  return huge_bytes(p) - before;
}

TEST(AlignedBuffer, HugePagesAlsoWhereTheHeapHasOthers) {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string enabled;
  std::getline(file, enabled);
  if (enabled.empty() || enabled.find("[never]") != std::string::npos) {
    GTEST_SKIP() << "no transparent huge pages: '" << enabled << "'";
  }
  constexpr std::size_t kBytes = 8 * kMiB;
  // Whether the system has any left to give.
  void* plain =
      mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(plain, MAP_FAILED);
  madvise(plain, 2 * kBytes, MADV_HUGEPAGE);
  const long possible = huge_bytes_by_touching(static_cast<std::uint8_t*>(plain), 2 * kBytes);
  munmap(plain, 2 * kBytes);
  if (possible < static_cast<long>(kBytes)) GTEST_SKIP() << "the system gives no huge pages now";

  // The heap keeps what is freed, in 4 KiB pages: freeing a large block makes glibc serve such
  // sizes from the heap, and the last small block keeps the rest from going back.
  using Block = std::unique_ptr<void, decltype(&std::free)>;
  // Compilers remove a pair of malloc and free that they see through.
  void* volatile large = std::malloc(30 * kMiB);
  std::free(large);
  std::vector<Block> blocks;
  for (int i = 0; i < 24; ++i) {
    blocks.emplace_back(std::malloc(kMiB), &std::free);
    std::memset(blocks.back().get(), 1, kMiB);
  }
  const Block last(std::malloc(64), &std::free);
  blocks.clear();

  const AlignedBuffer buffer(kBytes);
  EXPECT_EQ(huge_bytes_by_touching(buffer.data(), kBytes), static_cast<long>(kBytes));
  const AlignedBuffer shared(kBytes, AlignedBuffer::Pages::shared);
  // Others can have touched the first huge page.
  EXPECT_GE(huge_bytes_by_touching(shared.data(), kBytes), static_cast<long>(kBytes - 2 * kMiB));
}

/// Resident memory of this process.
std::size_t resident() {
  std::ifstream statm("/proc/self/statm");
  std::size_t pages = 0;
  statm >> pages >> pages;
  return pages * 4096;
}

TEST(AlignedBuffer, TakesNoMoreMemoryThanItSays) {
  if (NYBBLE_TEST_SANITIZED != 0) GTEST_SKIP() << "sanitizers have memory of their own";
  constexpr std::size_t kCount = 100;
  // 1024 x 4096 in INT4, say: two huge pages if each were rounded up.
  for (const std::size_t bytes : {2 * kMiB + kMiB / 4, kMiB / 2 + 5000, 9 * kMiB}) {
    const std::size_t before = resident();
    const auto above = [&] {
      const std::size_t now = resident();
      return static_cast<double>(now > before ? now - before : 0) / static_cast<double>(kMiB);
    };
    std::vector<AlignedBuffer> buffers;
    std::size_t held = 0;
    for (std::size_t i = 0; i < kCount; ++i) {
      buffers.emplace_back(bytes, AlignedBuffer::Pages::shared);
      held += buffers.back().held();
      std::memset(buffers.back().data(), 1, bytes);
    }
    const double said = static_cast<double>(held) / static_cast<double>(kMiB);
    EXPECT_LE(said, 1.03 * static_cast<double>(bytes * kCount) / static_cast<double>(kMiB));
    EXPECT_GE(above(), said - 4);
    // Beside the last huge page: what vectors and the test's own heap take.
    EXPECT_LE(above(), 1.005 * said + 4) << bytes;
    for (std::size_t i = 0; i < kCount; i += 2) buffers[i] = AlignedBuffer();
    EXPECT_LE(above(), 1.005 * said / 2 + 4) << bytes;
    buffers.clear();
    EXPECT_LE(above(), 4) << bytes;
  }
}

#endif

}  // namespace
}  // namespace nybble::test
