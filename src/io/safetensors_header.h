#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nybble/io/tensor_info.h"

namespace nybble::io {

/// The header of a safetensors file, checked as SafetensorsFile says.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  ///< in the order of their data
  std::map<std::string, std::string> metadata;
};

/// Bytes of a tensor of that type and shape; nothing where that is no whole number below 2^64. Of
/// an opaque one only whoever has it can say, by `opaque_bytes`.
std::optional<std::size_t> stored_bytes(TensorType type, std::span<const std::size_t> shape,
                                        std::size_t opaque_bytes);

/// Bytes of the JSON that follows the length, from the first bytes of a file of `file_size` bytes.
/// Throws bad_file, starting with `name`, where they are fewer than 8 or the length cannot be.
std::size_t read_header_length(std::span<const std::byte> first, std::size_t file_size,
                               const std::string& name);

/// `text` is the JSON alone. Throws bad_file, starting with `name`.
SafetensorsHeader parse_header(std::span<const std::byte> text, std::size_t file_size,
                               const std::string& name);

/// What a file of these tensors, in this order, begins with: the length and the JSON, padded so
/// that the data is aligned to 8 bytes. Their offsets are set. Throws bad_option, starting with
/// `name`, where it would exceed 100,000,000 bytes, a text is not UTF-8 or an opaque
/// type has no name.
std::string write_header(std::span<TensorInfo> tensors,
                         const std::map<std::string, std::string>& metadata,
                         const std::string& name);

/// Throws bad_option for a name that is reserved or not UTF-8, starting with `name`.
void check_tensor_name(const std::string& tensor, const std::string& name);

}  // namespace nybble::io
