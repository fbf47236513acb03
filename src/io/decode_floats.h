#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "nybble/io/safetensors.h"

namespace nybble::io {

/// f32, f16, bf16 or f64: what to_f32 takes.
bool is_float(TensorType type);

/// `count` elements of one of those types, at any alignment, as f32 (rounded to nearest from f64).
void decode_floats(TensorType type, const std::byte* bytes, std::size_t count, float* out);

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
