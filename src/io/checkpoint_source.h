#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nybble/io/quantized_checkpoint.h"

namespace nybble {

/// What a kind of file gives a QuantizedCheckpoint.
struct QuantizedCheckpoint::Source {
  virtual ~Source() = default;
  std::vector<std::filesystem::path> files;
  std::vector<LayerEntry> layers;
  std::vector<TensorEntry> tensors;
  std::map<std::string, std::size_t> other_widths;
  std::vector<std::string> reasons;
  std::string claimed_method;
  std::map<std::string, std::string> metadata;
  /// The index is that of `layers` and `tensors`.
  [[nodiscard]] virtual StoredLayer read(std::size_t layer) const = 0;
  [[nodiscard]] virtual std::vector<float> read_f32(std::size_t tensor) const = 0;
  [[nodiscard]] virtual std::span<const std::byte> bytes(std::size_t tensor) const = 0;
  [[nodiscard]] virtual TensorView raw(std::size_t tensor, std::vector<float>& storage) const = 0;
};

namespace io {

std::unique_ptr<const QuantizedCheckpoint::Source> open_safetensors_checkpoint(
    const std::filesystem::path& path, const std::string& layout);
std::unique_ptr<const QuantizedCheckpoint::Source> open_gguf_checkpoint(
    const std::filesystem::path& path, const std::string& layout);

}  // namespace io
}  // namespace nybble
