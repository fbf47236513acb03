#pragma once

#include <cstddef>
#include <string>

namespace nybble::test {

/// A .safetensors file: the length of the header, the header, the data.
inline std::string safetensors_text(const std::string& header, const std::string& data) {
  std::string result;
  for (std::size_t i = 0; i < 8; ++i) {
    result += static_cast<char>(header.size() >> (8 * i) & 0xff);
  }
  return result + header + data;
}

}  // namespace nybble::test
