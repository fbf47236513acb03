#include "src/tensor/aligned_buffer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nybble::test {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST(AlignedBuffer, EverySizeIsAlignedAndWritable) {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{65}, 2 * kMiB - 1,
                                  2 * kMiB, 2 * kMiB + 1, 5 * kMiB}) {
    AlignedBuffer buffer(bytes);
    EXPECT_EQ(buffer.size(), bytes);
    const std::size_t alignment = bytes >= 2 * kMiB ? 2 * kMiB : 64;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % alignment, 0U);
    std::memset(buffer.data(), 0x5A, bytes);
    std::uint8_t* data = buffer.data();
    AlignedBuffer moved = std::move(buffer);
    EXPECT_EQ(moved.data(), data);
    if (bytes != 0) {
      EXPECT_EQ(data[bytes - 1], 0x5A);
    }
  }
  EXPECT_EQ(AlignedBuffer().data(), nullptr);
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
}

#endif

}  // namespace
}  // namespace nybble::test
