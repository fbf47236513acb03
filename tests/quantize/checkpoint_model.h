#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nybble/io/safetensors.h"
#include "nybble/numeric/bfloat16.h"
#include "nybble/numeric/float16.h"
#include "tests/support/random.h"

namespace nybble::test {

/// A tensor of normal values in that type.
struct ModelTensor {
  std::string name;
  std::vector<std::size_t> shape;
  TensorType type = TensorType::bf16;
};

/// The values of a ModelTensor as f32, as its file has them.
inline std::vector<float> model_values(const ModelTensor& tensor) {
  std::size_t count = 1;
  for (const std::size_t size : tensor.shape) count *= size;
  std::vector<float> out = normal_values(count, std::hash<std::string>()(tensor.name));
  for (float& value : out) {
    if (tensor.type == TensorType::bf16) value = BFloat16::from_float(value).to_float();
    if (tensor.type == TensorType::f16) value = Float16::from_float(value).to_float();
  }
  return out;
}

inline std::vector<std::byte> model_bytes(const ModelTensor& tensor) {
  const std::vector<float> values = model_values(tensor);
  const auto bytes_of = [](const auto& typed) {
    const auto bytes = std::as_bytes(std::span(typed));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  if (tensor.type == TensorType::f32) return bytes_of(values);
  if (tensor.type == TensorType::f64) {
    return bytes_of(std::vector<double>(values.begin(), values.end()));
  }
  std::vector<std::uint16_t> halves;
  for (const float value : values) {
    halves.push_back(tensor.type == TensorType::f16 ? Float16::from_float(value).bits
                                                    : BFloat16::from_float(value).bits);
  }
  return bytes_of(halves);
}

inline void write_model(const std::filesystem::path& file,
                        const std::vector<ModelTensor>& tensors) {
  SafetensorsWriter writer(file);
  std::map<std::string, std::vector<std::byte>> bytes;
  for (const ModelTensor& tensor : tensors) {
    bytes[tensor.name] = model_bytes(tensor);
    writer.add(tensor.name, tensor.type, tensor.shape, bytes[tensor.name]);
  }
  writer.finish();
}

}  // namespace nybble::test
