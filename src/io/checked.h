#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nybble::io {

/// product(shape) * bits / 8, or nothing where a product overflows or the last byte is not whole.
std::optional<std::size_t> byte_count(std::span<const std::size_t> shape, std::size_t bits);

/// The shape as "[2, 3]".
std::string shape_text(std::span<const std::size_t> shape);

/// A text from a file for a message: in quotes, one line of ASCII, of bounded length.
std::string quote(std::string_view text);

/// "expected one of its N tensors, such as ...": the names most like `wanted`.
std::string name_hint(std::string_view wanted, const std::vector<std::string_view>& names);

}  // namespace nybble::io
