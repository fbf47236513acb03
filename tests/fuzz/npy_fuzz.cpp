// Whatever the bytes say, parse_npy returns an array that fits its shape or throws Error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "nybble/error.h"
#include "nybble/io/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const nybble::NpyArray array = nybble::parse_npy(std::as_bytes(std::span(data, size)), "fuzz");
    std::size_t count = 1;
    for (const std::size_t axis : array.shape) count *= axis;
    if (array.count() != count || array.data.size() > size) std::abort();
    if (array.as_f32().size() != count) std::abort();
  } catch (const nybble::Error&) {
  }
  return 0;
}
