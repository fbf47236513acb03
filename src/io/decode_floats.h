#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

namespace nybble::io {

/// f32 values from elements of type Stored at any alignment, each through `convert`.
template <class Stored, class Convert>
std::vector<float> decode_floats(std::span<const std::byte> bytes, Convert convert) {
  std::vector<float> result(bytes.size() / sizeof(Stored));
  for (std::size_t i = 0; i < result.size(); ++i) {
    Stored value;
    std::memcpy(&value, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    result[i] = convert(value);
  }
  return result;
}

}  // namespace nybble::io
