#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "nybble/tensor/quantized_matrix.h"

/// How files pack nibbles, and how they turn a matrix: what layouts have in common.
namespace nybble::io {

inline constexpr std::size_t kCodesPerWord = 8;

/// Which of 8 neighbours is at bits 4i of a 32-bit word.
using SlotOrder = std::array<std::uint8_t, kCodesPerWord>;
inline constexpr SlotOrder kSequential = {0, 1, 2, 3, 4, 5, 6, 7};
inline constexpr SlotOrder kAwqOrder = {0, 2, 4, 6, 1, 3, 5, 7};

/// The index-th 32-bit word; tensors of a file need not be aligned.
std::uint32_t load_word(std::span<const std::byte> bytes, std::size_t index);
void store_word(std::span<std::byte> bytes, std::size_t index, std::uint32_t word);

/// A matrix inside other memory.
struct Grid {
  const void* data;
  std::size_t rows, cols;
  std::size_t stride;  ///< bytes from row to row
};

/// to[c][r] = from[r][c] for elements of `size` bytes, 2 or 4; rows of `to` are `stride` bytes
/// apart.
void transpose(const Grid& from, std::size_t size, void* to, std::size_t stride);

/// [N][G] bytes 0..15 from words [G][N/8]. `add` goes to each whole word first, modulo 2^32.
std::vector<std::uint8_t> unpack_zero_points(std::span<const std::byte> words, std::size_t rows,
                                             std::size_t groups, const SlotOrder& order,
                                             std::uint32_t add);
/// The inverse.
std::vector<std::byte> pack_zero_points(std::span<const std::uint8_t> zero_points, std::size_t rows,
                                        std::size_t groups, const SlotOrder& order,
                                        std::uint32_t add);

/// Fills rows x cols codes of `matrix` from words [K][N/8] that hold 8 neighbouring rows each.
void unpack_row_words(std::span<const std::byte> words, const SlotOrder& order,
                      QuantizedMatrix& matrix);
/// The inverse, for a multiple of 8 rows.
std::vector<std::byte> pack_row_words(const QuantizedMatrix& matrix, const SlotOrder& order);

/// Codes of one row, two a byte: to[i] = from[source[i]]. The two may not overlap.
void permute_codes(std::span<const std::uint8_t> from, std::span<const std::uint32_t> source,
                   std::span<std::uint8_t> to);

/// Sets the codes of k >= cols to the one nearest to zero. For int4 only.
void fill_int4_padding(QuantizedMatrix& matrix);

/// An int4 matrix, codes and scales still to be filled: symmetric where every zero point [N][G] is
/// 8, which is the same. Throws unsupported, naming `what`, for a group no format has; 0 = the row.
QuantizedMatrix make_int4(const std::string& what, std::size_t group, ScaleType scale,
                          std::size_t rows, std::size_t cols,
                          std::vector<std::uint8_t> zero_points);
/// [N][G], 8 throughout for a symmetric matrix. Throws bad_value, naming `what`, above 15.
std::vector<std::uint8_t> int4_zero_points(const std::string& what, const QuantizedMatrix& matrix);

/// The bytes with the nibbles of each swapped.
void swap_nibbles(std::span<const std::byte> from, std::uint8_t* to);

}  // namespace nybble::io
