#include "src/io/gguf_format.h"

#include <array>
#include <fstream>
#include <limits>

#include "src/io/checked.h"

namespace nybble {
namespace {

struct TypeRow {
  GgufType type;
  std::string_view name;
  std::size_t values;  // a block
  std::size_t bytes;   // a block
};

// Sizes of the block structs of ggml-common.h (github:ggml-org/ggml @d99724f).
constexpr TypeRow kTypes[] = {
    {GgufType::f32, "F32", 1, 4},
    {GgufType::f16, "F16", 1, 2},
    {GgufType::q4_0, "Q4_0", 32, 18},
    {GgufType::q4_1, "Q4_1", 32, 20},
    {GgufType::q5_0, "Q5_0", 32, 22},
    {GgufType::q5_1, "Q5_1", 32, 24},
    {GgufType::q8_0, "Q8_0", 32, 34},
    {GgufType::q8_1, "Q8_1", 32, 36},
    {GgufType::q2_k, "Q2_K", 256, 84},
    {GgufType::q3_k, "Q3_K", 256, 110},
    {GgufType::q4_k, "Q4_K", 256, 144},
    {GgufType::q5_k, "Q5_K", 256, 176},
    {GgufType::q6_k, "Q6_K", 256, 210},
    {GgufType::q8_k, "Q8_K", 256, 292},
    {GgufType::iq2_xxs, "IQ2_XXS", 256, 66},
    {GgufType::iq2_xs, "IQ2_XS", 256, 74},
    {GgufType::iq3_xxs, "IQ3_XXS", 256, 98},
    {GgufType::iq1_s, "IQ1_S", 256, 50},
    {GgufType::iq4_nl, "IQ4_NL", 32, 18},
    {GgufType::iq3_s, "IQ3_S", 256, 110},
    {GgufType::iq2_s, "IQ2_S", 256, 82},
    {GgufType::iq4_xs, "IQ4_XS", 256, 136},
    {GgufType::i8, "I8", 1, 1},
    {GgufType::i16, "I16", 1, 2},
    {GgufType::i32, "I32", 1, 4},
    {GgufType::i64, "I64", 1, 8},
    {GgufType::f64, "F64", 1, 8},
    {GgufType::iq1_m, "IQ1_M", 256, 56},
    {GgufType::bf16, "BF16", 1, 2},
    {GgufType::tq1_0, "TQ1_0", 256, 54},
    {GgufType::tq2_0, "TQ2_0", 256, 66},
    {GgufType::mxfp4, "MXFP4", 32, 17},
    {GgufType::nvfp4, "NVFP4", 64, 36},
    {GgufType::q1_0, "Q1_0", 128, 18},
    {GgufType::q2_0, "Q2_0", 64, 18},
};

const TypeRow* find_row(std::uint32_t number) {
  for (const TypeRow& row : kTypes) {
    if (static_cast<std::uint32_t>(row.type) == number) return &row;
  }
  return nullptr;
}

const TypeRow& row_of(GgufType type) {
  const TypeRow* const row = find_row(static_cast<std::uint32_t>(type));
  return row == nullptr ? kTypes[0] : *row;
}

}  // namespace

std::string_view gguf_type_name(GgufType type) noexcept { return row_of(type).name; }
std::size_t gguf_block_values(GgufType type) noexcept { return row_of(type).values; }
std::size_t gguf_block_bytes(GgufType type) noexcept { return row_of(type).bytes; }

namespace io {

std::optional<GgufType> gguf_type_from_number(std::uint32_t number) {
  const TypeRow* const row = find_row(number);
  if (row == nullptr) return std::nullopt;
  return row->type;
}

std::optional<std::size_t> gguf_bytes(GgufType type, std::span<const std::size_t> shape) {
  const TypeRow& row = row_of(type);
  const std::size_t cols = shape.empty() ? 1 : shape.back();
  if (cols % row.values != 0) return std::nullopt;
  // Counted in bits of whole blocks, so that what byte_count checks is what is returned.
  std::vector<std::size_t> blocks(shape.begin(), shape.end());
  if (!blocks.empty()) blocks.back() /= row.values;
  // Also without the blocks: a count of values that wraps is no shape, whatever its bytes are.
  if (!byte_count(shape, 8)) return std::nullopt;
  return byte_count(blocks, row.bytes * 8);
}

bool is_gguf(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  std::array<char, kGgufMagic.size()> magic{};
  std::ifstream(path, std::ios::binary).read(magic.data(), magic.size());
  return std::string_view(magic.data(), magic.size()) == kGgufMagic;
}

std::optional<std::size_t> round_up(std::size_t position, std::size_t alignment) {
  if (position > std::numeric_limits<std::size_t>::max() - (alignment - 1)) return std::nullopt;
  return (position + alignment - 1) / alignment * alignment;
}

}  // namespace io
}  // namespace nybble
