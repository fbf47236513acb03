#pragma once

#include <cstddef>
#include <string>
#include <string_view>
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
  std::string dtype = {};  ///< what the file calls an opaque type, empty for others
};

/// What the file calls the type of the tensor.
std::string_view tensor_type_name(const TensorInfo& tensor) noexcept;

}  // namespace nybble
