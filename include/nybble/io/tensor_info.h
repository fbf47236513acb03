#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "nybble/io/safetensors.h"

namespace nybble {

/// What a safetensors header says of a tensor.
struct TensorInfo {
  std::string name;
  TensorType type = TensorType::f32;
  std::vector<std::size_t> shape;  ///< empty for a scalar
  std::size_t offset = 0;          ///< of its first byte from the start of the file
  std::size_t bytes = 0;
};

}  // namespace nybble
