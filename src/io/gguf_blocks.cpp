#include "src/io/gguf_blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/numeric/bfloat16.h"
#include "nybble/numeric/float16.h"
#include "src/io/checked.h"
#include "src/io/decode_floats.h"
#include "src/io/gguf_format.h"

namespace nybble::io {

namespace {

/// A row of a matrix at one of its blocks. `Byte` is const where blocks are written.
template <class Byte>
struct Place {
  Byte* codes;        ///< two a byte, from the block's first value on
  Byte* scales;       ///< from its first group on
  std::size_t index;  ///< of that group in the whole matrix
};
using ReadPlace = Place<std::uint8_t>;
using WritePlace = Place<const std::uint8_t>;

/// ggml's bytes hold code j in the low and code j + half in the high nibble; ours hold neighbours.
void split_halves(const std::uint8_t* from, std::size_t half, std::uint8_t* to) {
  for (std::size_t j = 0; j < half; j += 2) {
    to[j / 2] = static_cast<std::uint8_t>((from[j] & 15) | (from[j + 1] & 15) << 4);
    to[(half + j) / 2] = static_cast<std::uint8_t>(from[j] >> 4 | (from[j + 1] & 0xF0));
  }
}

void join_halves(const std::uint8_t* from, std::size_t half, std::uint8_t* to) {
  for (std::size_t j = 0; j < half; j += 2) {
    const std::uint8_t low = from[j / 2];
    const std::uint8_t high = from[(half + j) / 2];
    to[j] = static_cast<std::uint8_t>((low & 15) | (high & 15) << 4);
    to[j + 1] = static_cast<std::uint8_t>(low >> 4 | (high & 0xF0));
  }
}

/// `size` bytes of scale, then 32 codes: Q4_0, IQ4_NL, MXFP4.
template <std::size_t size>
void read_scaled(const std::uint8_t* block, const ReadPlace& to, QuantizedMatrix& /*matrix*/) {
  std::memcpy(to.scales, block, size);
  split_halves(block + size, 16, to.codes);
}
template <std::size_t size>
void write_scaled(const WritePlace& from, const QuantizedMatrix& /*matrix*/, std::uint8_t* block) {
  std::memcpy(block, from.scales, size);
  join_halves(from.codes, 16, block + size);
}

/// Four UE4M3 scales, then four times 16 codes.
void read_nvfp4(const std::uint8_t* block, const ReadPlace& to, QuantizedMatrix& /*matrix*/) {
  std::memcpy(to.scales, block, 4);
  for (std::size_t s = 0; s < 4; ++s) split_halves(block + 4 + 8 * s, 8, to.codes + 8 * s);
}
void write_nvfp4(const WritePlace& from, const QuantizedMatrix& /*matrix*/, std::uint8_t* block) {
  std::memcpy(block, from.scales, 4);
  for (std::size_t s = 0; s < 4; ++s) join_halves(from.codes + 8 * s, 8, block + 4 + 8 * s);
}

/// An f16 scale, an f16 offset, then 32 codes.
void read_q4_1(const std::uint8_t* block, const ReadPlace& to, QuantizedMatrix& matrix) {
  std::memcpy(to.scales, block, 2);
  std::memcpy(&matrix.offsets[2 * to.index], block + 2, 2);
  split_halves(block + 4, 16, to.codes);
}
void write_q4_1(const WritePlace& from, const QuantizedMatrix& matrix, std::uint8_t* block) {
  std::memcpy(block, from.scales, 2);
  std::memcpy(block + 2, &matrix.offsets[2 * from.index], 2);
  join_halves(from.codes, 16, block + 4);
}

float load_half(const std::uint8_t* from) { return load_scale(ScaleType::f16, from); }
void store_half(float value, std::uint8_t* to) { store_scale(ScaleType::f16, value, to); }

// Two f16, eight scales and eight offsets of 6 bits in 12 bytes, then four times 64 codes. Bytes
// 0-3 and 4-7 hold the first four scales and offsets and, on top, the upper two bits of the others.
constexpr std::size_t kSuperBlock = 8;
void read_q4_k(const std::uint8_t* block, const ReadPlace& to, QuantizedMatrix& matrix) {
  matrix.nested_scales[to.index / kSuperBlock] = load_half(block);
  matrix.nested_offsets[to.index / kSuperBlock] = load_half(block + 2);
  const std::uint8_t* packed = block + 4;
  std::uint8_t* offsets = &matrix.offsets[to.index];
  for (std::size_t j = 0; j < 4; ++j) {
    to.scales[j] = packed[j] & 63;
    offsets[j] = packed[j + 4] & 63;
    to.scales[j + 4] = static_cast<std::uint8_t>((packed[j + 8] & 15) | packed[j] >> 6 << 4);
    offsets[j + 4] = static_cast<std::uint8_t>(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
  }
  for (std::size_t i = 0; i < 4; ++i) split_halves(block + 16 + 32 * i, 32, to.codes + 32 * i);
}
void write_q4_k(const WritePlace& from, const QuantizedMatrix& matrix, std::uint8_t* block) {
  store_half(matrix.nested_scales[from.index / kSuperBlock], block);
  store_half(matrix.nested_offsets[from.index / kSuperBlock], block + 2);
  std::uint8_t* packed = block + 4;
  const std::uint8_t* offsets = &matrix.offsets[from.index];
  for (std::size_t j = 0; j < 4; ++j) {
    packed[j] = static_cast<std::uint8_t>(from.scales[j] | from.scales[j + 4] >> 4 << 6);
    packed[j + 4] = static_cast<std::uint8_t>(offsets[j] | offsets[j + 4] >> 4 << 6);
    packed[j + 8] = static_cast<std::uint8_t>((from.scales[j + 4] & 15) | offsets[j + 4] << 4);
  }
  for (std::size_t i = 0; i < 4; ++i) join_halves(from.codes + 32 * i, 32, block + 16 + 32 * i);
}

// An f16, eight scales of 6 bits plus 32 (their upper two bits in a u16, the lower four in four
// bytes), then eight times 32 codes.
constexpr int kScaleBias = 32;
void read_iq4_xs(const std::uint8_t* block, const ReadPlace& to, QuantizedMatrix& matrix) {
  matrix.nested_scales[to.index / kSuperBlock] = load_half(block);
  std::uint16_t high = 0;
  std::memcpy(&high, block + 2, 2);
  for (std::size_t j = 0; j < kSuperBlock; ++j) {
    const int low = block[4 + j / 2] >> (4 * (j % 2)) & 15;
    to.scales[j] = static_cast<std::uint8_t>((low | (high >> (2 * j) & 3) << 4) - kScaleBias);
    split_halves(block + 8 + 16 * j, 16, to.codes + 16 * j);
  }
}
void write_iq4_xs(const WritePlace& from, const QuantizedMatrix& matrix, std::uint8_t* block) {
  store_half(matrix.nested_scales[from.index / kSuperBlock], block);
  unsigned high = 0;
  for (std::size_t j = 0; j < kSuperBlock; ++j) {
    const auto scale = static_cast<std::uint8_t>(from.scales[j] + kScaleBias);
    high |= static_cast<unsigned>(scale >> 4) << (2 * j);
    // Two to a byte, of which the first comes first.
    const std::uint8_t before = j % 2 == 0 ? std::uint8_t{0} : block[4 + j / 2];
    block[4 + j / 2] = static_cast<std::uint8_t>(before | (scale & 15) << (4 * (j % 2)));
    join_halves(from.codes + 16 * j, 16, block + 8 + 16 * j);
  }
  const auto bits = static_cast<std::uint16_t>(high);
  std::memcpy(block + 2, &bits, 2);
}

struct Codec {
  GgufType type;
  const char* format;  ///< what a matrix of these blocks is in
  void (*read)(const std::uint8_t* block, const ReadPlace& to, QuantizedMatrix& matrix);
  void (*write)(const WritePlace& from, const QuantizedMatrix& matrix, std::uint8_t* block);
};

constexpr Codec kCodecs[] = {
    {GgufType::q4_0, "int4", read_scaled<2>, write_scaled<2>},
    {GgufType::q4_1, "q4_1", read_q4_1, write_q4_1},
    {GgufType::q4_k, "q4_k", read_q4_k, write_q4_k},
    {GgufType::iq4_xs, "iq4_xs", read_iq4_xs, write_iq4_xs},
    {GgufType::iq4_nl, "iq4_nl", read_scaled<2>, write_scaled<2>},
    {GgufType::mxfp4, "mxfp4", read_scaled<1>, write_scaled<1>},
    {GgufType::nvfp4, "nvfp4", read_nvfp4, write_nvfp4},
};

const Codec* find_codec(GgufType type) {
  const auto* const found = std::find_if(std::begin(kCodecs), std::end(kCodecs),
                                         [&](const Codec& row) { return row.type == type; });
  return found == std::end(kCodecs) ? nullptr : found;
}

/// Bytes of a matrix's scales per group.
std::size_t scale_stride(const QuantizedMatrix& matrix) {
  return matrix.scales.size() / (matrix.rows * matrix.groups);
}

/// Calls visit(block number, row, first value, first group) for all blocks of a matrix in their
/// order.
template <class Visit>
void for_blocks(const QuantizedMatrix& matrix, GgufType type, Visit visit) {
  const std::size_t values = gguf_block_values(type);
  std::size_t number = 0;
  for (std::size_t row = 0; row < matrix.rows; ++row) {
    for (std::size_t col = 0; col < matrix.cols; col += values) {
      visit(number++, row * (matrix.padded_cols / 2) + col / 2,
            row * matrix.groups + col / matrix.group);
    }
  }
}

constexpr std::uint8_t kSign = 0x80;

/// Index of the first UE4M3 scale with a sign, or the number of scales.
std::size_t first_signed(const QuantizedMatrix& matrix) {
  const auto found = std::find_if(matrix.scales.begin(), matrix.scales.end(),
                                  [](std::uint8_t scale) { return (scale & kSign) != 0; });
  return static_cast<std::size_t>(found - matrix.scales.begin());
}

/// The first scale or offset of a super-block that its block cannot hold: a byte beyond 6 bits or a
/// shared number that f16 does not have. Nothing where all can be held.
std::optional<std::string> beyond_block(const QuantizedMatrix& matrix) {
  const FormatInfo& info = matrix.format.info();
  if (info.super_block == 0) return std::nullopt;
  for (const std::uint8_t byte : matrix.scales) {
    const int scale = static_cast<std::int8_t>(byte) + (info.offsets ? 0 : kScaleBias);
    if (scale < 0 || scale > 63) return fmt::format("a scale byte of {}", byte);
  }
  for (const std::uint8_t offset : matrix.offsets) {
    if (offset > 63) return fmt::format("an offset byte of {}", offset);
  }
  for (const std::vector<float>* shared : {&matrix.nested_scales, &matrix.nested_offsets}) {
    for (const float number : *shared) {
      std::uint8_t half[2];
      store_half(number, half);
      if (std::bit_cast<std::uint32_t>(load_half(half)) != std::bit_cast<std::uint32_t>(number)) {
        return fmt::format("a number of {} for a super-block, not one of f16", number);
      }
    }
  }
  return std::nullopt;
}

std::vector<float> decode_q8_0(std::span<const std::byte> bytes) {
  constexpr std::size_t kValues = 32;
  struct Block {
    std::uint16_t scale;
    std::array<std::int8_t, kValues> q;
  };
  static_assert(sizeof(Block) == 34);
  std::vector<float> out(bytes.size() / sizeof(Block) * kValues);
  for (std::size_t b = 0; b < bytes.size() / sizeof(Block); ++b) {
    Block block;
    std::memcpy(&block, bytes.data() + b * sizeof(Block), sizeof(Block));
    const float scale = Float16{block.scale}.to_float();
    for (std::size_t i = 0; i < kValues; ++i) {
      out[b * kValues + i] = static_cast<float>(block.q[i]) * scale;
    }
  }
  return out;
}

}  // namespace

bool is_four_bit(GgufType type) { return find_codec(type) != nullptr; }

QuantizedMatrix read_blocks(const GgufTensor& tensor, const std::string& where) {
  const Codec* const codec = find_codec(tensor.type);
  if (codec == nullptr) {
    throw Error(ErrorCode::unsupported, fmt::format("{}: type {}, expected 4-bit blocks", where,
                                                    gguf_type_name(tensor.type)));
  }
  std::size_t rows = 1;
  for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i) rows *= tensor.shape[i];
  if (tensor.bytes.empty()) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: shape {} holds no values", where, shape_text(tensor.shape)));
  }
  QuantizedMatrix matrix(parse_format(codec->format), rows, tensor.shape.back());
  const std::size_t stride = scale_stride(matrix);
  const auto* const blocks = reinterpret_cast<const std::uint8_t*>(tensor.bytes.data());
  for_blocks(matrix, tensor.type, [&](std::size_t number, std::size_t code, std::size_t group) {
    codec->read(blocks + number * gguf_block_bytes(tensor.type),
                {&matrix.codes[code], &matrix.scales[group * stride], group}, matrix);
  });
  // Only a signalling NaN is another number after it was f32.
  if (const auto what = beyond_block(matrix)) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: {}", where, *what));
  }
  if (tensor.type == GgufType::nvfp4) {
    const std::size_t bad = first_signed(matrix);
    if (bad != matrix.scales.size()) {
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: scale {} of row {} is 0x{:02x}, expected no sign", where,
                              bad % matrix.groups, bad / matrix.groups, matrix.scales[bad]));
    }
  }
  return matrix;
}

std::vector<std::byte> write_blocks(const QuantizedMatrix& matrix, GgufType type,
                                    const std::string& where) {
  matrix.check();
  const Codec* const codec = find_codec(type);
  const std::vector<std::size_t> shape = {matrix.rows, matrix.cols};
  if (codec == nullptr || gguf_type_for(matrix.format, shape) != type) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: {} cannot hold '{}' without requantizing it", where,
                            gguf_type_name(type), matrix.format.info().spec));
  }
  if (type != GgufType::nvfp4 && matrix.tensor.scale != 1) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: {} has no place for a tensor scale of {}", where,
                            gguf_type_name(type), matrix.tensor.scale));
  }
  if (type == GgufType::nvfp4 && first_signed(matrix) != matrix.scales.size()) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: a negative scale, NVFP4 blocks have no sign", where));
  }
  if (const auto what = beyond_block(matrix)) {
    throw Error(ErrorCode::unsupported, fmt::format("{}: {}", where, *what));
  }
  const std::size_t stride = scale_stride(matrix);
  std::vector<std::byte> bytes(matrix.rows * (matrix.cols / gguf_block_values(type)) *
                               gguf_block_bytes(type));
  auto* const blocks = reinterpret_cast<std::uint8_t*>(bytes.data());
  for_blocks(matrix, type, [&](std::size_t number, std::size_t code, std::size_t group) {
    codec->write({&matrix.codes[code], &matrix.scales[group * stride], group}, matrix,
                 blocks + number * gguf_block_bytes(type));
  });
  return bytes;
}

std::vector<float> decode_gguf(const GgufTensor& tensor, const std::string& where) {
  switch (tensor.type) {
    case GgufType::f32:
      return decode_floats<float>(tensor.bytes, [](float value) { return value; });
    case GgufType::f64:
      return decode_floats<double>(tensor.bytes,
                                   [](double value) { return static_cast<float>(value); });
    case GgufType::f16:
      return decode_floats<std::uint16_t>(
          tensor.bytes, [](std::uint16_t bits) { return Float16{bits}.to_float(); });
    case GgufType::bf16:
      return decode_floats<std::uint16_t>(
          tensor.bytes, [](std::uint16_t bits) { return BFloat16{bits}.to_float(); });
    case GgufType::q8_0:
      return decode_q8_0(tensor.bytes);
    default:
      break;
  }
  if (!is_four_bit(tensor.type)) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: type {}, expected F32, F16, BF16, F64, Q8_0 or 4-bit blocks",
                            where, gguf_type_name(tensor.type)));
  }
  if (tensor.bytes.empty()) return {};
  const QuantizedMatrix matrix = read_blocks(tensor, where);
  std::vector<float> values(matrix.rows * matrix.cols);
  SerialExecutor executor;
  dequantize(matrix, {values.data(), matrix.rows, matrix.cols}, executor);
  return values;
}

}  // namespace nybble::io

namespace nybble {

GgufType gguf_type_for(const AnyFormat& format, std::span<const std::size_t> shape) {
  const FormatInfo& info = format.info();
  for (const io::Codec& codec : io::kCodecs) {
    const FormatInfo held = parse_format(codec.format).info();
    // Options that only say how codes and scales were chosen do not matter.
    if (info.name != held.name || info.layout != held.layout || info.group != held.group ||
        info.scale_type != held.scale_type) {
      continue;
    }
    if (io::gguf_bytes(codec.type, shape)) return codec.type;
    throw Error(ErrorCode::unsupported,
                fmt::format("GGUF: {} holds rows of whole blocks of {} values, not shape {}",
                            gguf_type_name(codec.type), gguf_block_values(codec.type),
                            io::shape_text(shape)));
  }
  throw Error(ErrorCode::unsupported,
              fmt::format("GGUF: no block type holds '{}', expected int4:group=32,scale=f16, "
                          "iq4_nl, mxfp4:group=32, nvfp4, q4_1, q4_k or iq4_xs",
                          info.spec));
}

}  // namespace nybble
