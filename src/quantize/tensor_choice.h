#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "nybble/io/tensor_info.h"

namespace nybble {

/// The module's name of a tensor: its own without ".weight".
std::string module_name(std::string_view tensor);

/// Matrices with fewer rows or columns save nothing, and the reason that says so.
inline constexpr std::size_t kSmallestMatrix = 32;
std::string too_small();

/// Why a tensor is copied unless a rule says otherwise; empty: it is quantized.
std::string reason_to_copy(const TensorInfo& tensor);

/// Whether a tensor can be quantized at all: floats, two or more axes, none of them empty.
bool can_quantize(const TensorInfo& tensor);

}  // namespace nybble
