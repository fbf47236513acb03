#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>

#include "nybble/io/gguf.h"

/// What the reader and the writer of GGUF files share.
namespace nybble::io {

constexpr std::string_view kGgufMagic = "GGUF";
constexpr std::string_view kAlignmentKey = "general.alignment";
constexpr std::size_t kLongestKey = 65535;      // the specification's limit (ggml docs/gguf.md)
constexpr std::size_t kLongestTensorName = 63;  // GGML_MAX_NAME without its NUL
constexpr std::size_t kMostAxes = 4;            // GGML_MAX_DIMS
constexpr std::size_t kDeepestArray = 4;

/// Whether a file begins as GGUF does; false where there is none, which its reader reports.
bool is_gguf(const std::filesystem::path& path);

/// The type with that number in a file, nothing where ggml has none.
std::optional<GgufType> gguf_type_from_number(std::uint32_t number);

/// Bytes of a tensor, or nothing where K is not whole blocks or a product overflows.
std::optional<std::size_t> gguf_bytes(GgufType type, std::span<const std::size_t> shape);

/// The next multiple of a power of two; nothing where that overflows.
std::optional<std::size_t> round_up(std::size_t position, std::size_t alignment);

constexpr bool is_alignment(std::uint32_t value) {
  return value != 0 && (value & (value - 1)) == 0;
}

}  // namespace nybble::io
