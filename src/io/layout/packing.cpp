#include "src/io/layout/packing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "nybble/error.h"
#include "nybble/format/registry.h"

namespace nybble::io {

namespace {

constexpr std::uint8_t kSymmetricZero = 8;

std::uint8_t nibble(std::uint32_t word, std::size_t slot) {
  return static_cast<std::uint8_t>(word >> (4 * slot) & 15);
}

template <class Element>
void transpose_elements(const Grid& from, std::byte* to, std::size_t stride) {
  // Squares of 32 x 32, so that the lines read and written stay in the cache.
  constexpr std::size_t kTile = 32;
  const auto* data = static_cast<const std::byte*>(from.data);
  for (std::size_t row0 = 0; row0 < from.rows; row0 += kTile) {
    const std::size_t row_end = std::min(from.rows, row0 + kTile);
    for (std::size_t col0 = 0; col0 < from.cols; col0 += kTile) {
      const std::size_t col_end = std::min(from.cols, col0 + kTile);
      for (std::size_t col = col0; col < col_end; ++col) {
        for (std::size_t row = row0; row < row_end; ++row) {
          std::memcpy(to + col * stride + row * sizeof(Element),
                      data + row * from.stride + col * sizeof(Element), sizeof(Element));
        }
      }
    }
  }
}

/// Eight words of eight nibbles.
using NibbleSquare = std::array<std::uint32_t, kCodesPerWord>;

/// Nibble j of word i becomes nibble i of word j.
NibbleSquare transposed(const NibbleSquare& square) {
  NibbleSquare out{};
  for (std::size_t i = 0; i < kCodesPerWord; ++i) {
    for (std::size_t j = 0; j < kCodesPerWord; ++j) {
      out[j] |= (square[i] >> (4 * j) & 15) << (4 * i);
    }
  }
  return out;
}

/// Calls visit(c, k, count) for word c of `width` and each `count` <= 8 of `cols` from k on. A
/// cache line of words at a time, whose 128 rows are gone through from front to back.
template <class Visit>
void for_each_square(std::size_t width, std::size_t cols, Visit visit) {
  constexpr std::size_t kTile = 16;
  for (std::size_t c0 = 0; c0 < width; c0 += kTile) {
    for (std::size_t k = 0; k < cols; k += kCodesPerWord) {
      const std::size_t count = std::min(kCodesPerWord, cols - k);
      for (std::size_t c = c0; c < std::min(width, c0 + kTile); ++c) visit(c, k, count);
    }
  }
}

}  // namespace

std::uint32_t load_word(std::span<const std::byte> bytes, std::size_t index) {
  std::uint32_t word = 0;
  std::memcpy(&word, bytes.data() + index * sizeof word, sizeof word);
  return word;
}

void store_word(std::span<std::byte> bytes, std::size_t index, std::uint32_t word) {
  std::memcpy(bytes.data() + index * sizeof word, &word, sizeof word);
}

void transpose(const Grid& from, std::size_t size, void* to, std::size_t stride) {
  if (size == 2) {
    transpose_elements<std::uint16_t>(from, static_cast<std::byte*>(to), stride);
  } else {
    transpose_elements<std::uint32_t>(from, static_cast<std::byte*>(to), stride);
  }
}

std::vector<std::uint8_t> unpack_zero_points(std::span<const std::byte> words, std::size_t rows,
                                             std::size_t groups, const SlotOrder& order,
                                             std::uint32_t add) {
  std::vector<std::uint8_t> out(rows * groups);
  const std::size_t width = rows / kCodesPerWord;
  for (std::size_t group = 0; group < groups; ++group) {
    for (std::size_t c = 0; c < width; ++c) {
      const std::uint32_t word = load_word(words, group * width + c) + add;
      for (std::size_t slot = 0; slot < kCodesPerWord; ++slot) {
        out[(c * kCodesPerWord + order[slot]) * groups + group] = nibble(word, slot);
      }
    }
  }
  return out;
}

std::vector<std::byte> pack_zero_points(std::span<const std::uint8_t> zero_points, std::size_t rows,
                                        std::size_t groups, const SlotOrder& order,
                                        std::uint32_t add) {
  const std::size_t width = rows / kCodesPerWord;
  std::vector<std::byte> out(groups * width * sizeof(std::uint32_t));
  for (std::size_t group = 0; group < groups; ++group) {
    for (std::size_t c = 0; c < width; ++c) {
      std::uint32_t word = 0;
      for (std::size_t slot = 0; slot < kCodesPerWord; ++slot) {
        const std::uint32_t zero = zero_points[(c * kCodesPerWord + order[slot]) * groups + group];
        word |= zero << (4 * slot);
      }
      store_word(out, group * width + c, word + add);
    }
  }
  return out;
}

void unpack_row_words(std::span<const std::byte> words, const SlotOrder& order,
                      QuantizedMatrix& matrix) {
  const std::size_t width = matrix.rows / kCodesPerWord;
  const std::size_t stride = matrix.padded_cols / 2;
  for_each_square(width, matrix.cols, [&](std::size_t c, std::size_t k, std::size_t count) {
    NibbleSquare square{};
    for (std::size_t i = 0; i < count; ++i) square[i] = load_word(words, (k + i) * width + c);
    square = transposed(square);
    for (std::size_t slot = 0; slot < kCodesPerWord; ++slot) {
      const std::size_t row = c * kCodesPerWord + order[slot];
      std::memcpy(&matrix.codes[row * stride + k / 2], &square[slot], (count + 1) / 2);
    }
  });
}

std::vector<std::byte> pack_row_words(const QuantizedMatrix& matrix, const SlotOrder& order) {
  const std::size_t width = matrix.rows / kCodesPerWord;
  const std::size_t stride = matrix.padded_cols / 2;
  std::vector<std::byte> out(matrix.cols * width * sizeof(std::uint32_t));
  for_each_square(width, matrix.cols, [&](std::size_t c, std::size_t k, std::size_t count) {
    NibbleSquare square{};
    for (std::size_t slot = 0; slot < kCodesPerWord; ++slot) {
      const std::size_t row = c * kCodesPerWord + order[slot];
      std::memcpy(&square[slot], &matrix.codes[row * stride + k / 2], (count + 1) / 2);
    }
    square = transposed(square);
    for (std::size_t i = 0; i < count; ++i) store_word(out, (k + i) * width + c, square[i]);
  });
  return out;
}

void permute_codes(std::span<const std::uint8_t> from, std::span<const std::uint32_t> source,
                   std::span<std::uint8_t> to) {
  for (std::size_t i = 0; i < source.size(); ++i) {
    const std::uint8_t byte = from[source[i] / 2];
    const std::uint8_t code = source[i] % 2 == 0 ? byte & 15 : byte >> 4;
    to[i / 2] = static_cast<std::uint8_t>(i % 2 == 0 ? code : to[i / 2] | code << 4);
  }
}

void fill_int4_padding(QuantizedMatrix& matrix) {
  const bool symmetric = matrix.zero_points.empty();
  for (std::size_t row = 0; row < matrix.rows && matrix.padded_cols != matrix.cols; ++row) {
    const std::uint8_t zero =
        symmetric ? kSymmetricZero : matrix.zero_points[(row + 1) * matrix.groups - 1];
    std::uint8_t* codes = &matrix.codes[row * (matrix.padded_cols / 2)];
    for (std::size_t k = matrix.cols; k < matrix.padded_cols; ++k) {
      codes[k / 2] = static_cast<std::uint8_t>(k % 2 == 0 ? zero : (codes[k / 2] & 15) | zero << 4);
    }
  }
}

QuantizedMatrix make_int4(const std::string& what, std::size_t group, ScaleType scale,
                          std::size_t rows, std::size_t cols,
                          std::vector<std::uint8_t> zero_points) {
  const bool symmetric = std::all_of(zero_points.begin(), zero_points.end(),
                                     [](std::uint8_t zero) { return zero == kSymmetricZero; });
  const std::string spec =
      fmt::format("int4:group={},zero_point={},scale={}",
                  group == 0 ? "row" : std::to_string(group), !symmetric, scale_type_name(scale));
  try {
    QuantizedMatrix matrix(parse_format(spec), rows, cols);
    if (!symmetric) matrix.zero_points = std::move(zero_points);
    return matrix;
  } catch (const Error& error) {
    throw Error(ErrorCode::unsupported, fmt::format("{}: {}", what, error.what()));
  }
}

std::vector<std::uint8_t> int4_zero_points(const std::string& what, const QuantizedMatrix& matrix) {
  if (matrix.zero_points.empty()) {
    return std::vector<std::uint8_t>(matrix.rows * matrix.groups, kSymmetricZero);
  }
  for (const std::uint8_t zero : matrix.zero_points) {
    if (zero <= 15) continue;
    throw Error(ErrorCode::bad_value,
                fmt::format("{}: a zero point is {}, expected 0 to 15", what, zero));
  }
  return matrix.zero_points;
}

void swap_nibbles(std::span<const std::byte> from, std::uint8_t* to) {
  std::transform(from.begin(), from.end(), to,
                 [](std::byte byte) { return static_cast<std::uint8_t>(byte << 4 | byte >> 4); });
}

}  // namespace nybble::io
