#pragma once

#include <optional>
#include <string_view>

#include "nybble/io/safetensors.h"

namespace nybble::io {

/// The type a file calls `name`; nothing where it is unknown.
std::optional<TensorType> tensor_type_from_name(std::string_view name);

constexpr std::size_t kLargestHeader = 100'000'000;
constexpr std::size_t kLengthBytes = 8;  // the u64 in front of the header
constexpr std::string_view kMetadataKey = "__metadata__";

}  // namespace nybble::io
