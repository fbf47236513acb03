#include <fmt/format.h>

#include <bit>
#include <cstdint>

#include "nybble/error.h"
#include "nybble/io/tensor_info.h"
#include "nybble/numeric/bfloat16.h"
#include "src/io/checked.h"
#include "src/io/decode_floats.h"
#include "src/io/safetensors_format.h"

namespace nybble {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little endian");

struct TypeRow {
  TensorType type;
  std::string_view name;
  std::size_t bits;
};

constexpr TypeRow kTypes[] = {
    {TensorType::f64, "F64", 64},
    {TensorType::f32, "F32", 32},
    {TensorType::f16, "F16", 16},
    {TensorType::bf16, "BF16", 16},
    {TensorType::u64, "U64", 64},
    {TensorType::i64, "I64", 64},
    {TensorType::u32, "U32", 32},
    {TensorType::i32, "I32", 32},
    {TensorType::u16, "U16", 16},
    {TensorType::i16, "I16", 16},
    {TensorType::u8, "U8", 8},
    {TensorType::i8, "I8", 8},
    {TensorType::boolean, "BOOL", 8},
    {TensorType::f8_e4m3, "F8_E4M3", 8},
    {TensorType::f8_e5m2, "F8_E5M2", 8},
    {TensorType::f8_e8m0, "F8_E8M0", 8},
    {TensorType::f6_e2m3, "F6_E2M3", 6},
    {TensorType::f6_e3m2, "F6_E3M2", 6},
    {TensorType::f4, "F4", 4},
    {TensorType::c64, "C64", 64},
    {TensorType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
    {TensorType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
    {TensorType::opaque, "opaque", 0},
};

constexpr bool rows_follow_the_enum() {
  for (std::size_t i = 0; i < std::size(kTypes); ++i) {
    if (static_cast<std::size_t>(kTypes[i].type) != i) return false;
  }
  return true;
}
static_assert(rows_follow_the_enum());

const TypeRow& row_of(TensorType type) { return kTypes[static_cast<std::size_t>(type)]; }

/// Float16::to_float without a branch, which compilers make vector code of: an exponent field that
/// is 112 too small is put right by a product, also for subnormals.
float half_to_float(std::uint16_t bits) {
  const std::uint32_t shifted = (bits & 0x7FFFU) << 13;
  const float scaled = std::bit_cast<float>(shifted) * 0x1p112F;
  const std::uint32_t finite = std::bit_cast<std::uint32_t>(scaled);
  const std::uint32_t magnitude = shifted >= 0x0F800000U ? shifted | 0x7F800000U : finite;
  return std::bit_cast<float>(magnitude | (bits & 0x8000U) << 16);
}

template <class Stored, class Convert>
void decode_each(const std::byte* bytes, std::size_t count, float* out, Convert convert) {
  for (std::size_t i = 0; i < count; ++i) {
    Stored value;
    std::memcpy(&value, bytes + i * sizeof(Stored), sizeof(Stored));
    out[i] = convert(value);
  }
}

}  // namespace

std::string_view tensor_type_name(TensorType type) noexcept { return row_of(type).name; }

std::string_view tensor_type_name(const TensorView& tensor) noexcept {
  return tensor.type == TensorType::opaque ? tensor.dtype : tensor_type_name(tensor.type);
}

std::string_view tensor_type_name(const TensorInfo& tensor) noexcept {
  return tensor.type == TensorType::opaque ? tensor.dtype : tensor_type_name(tensor.type);
}

std::size_t tensor_type_bits(TensorType type) noexcept { return row_of(type).bits; }

std::optional<TensorType> io::tensor_type_from_name(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (row.name == name && row.type != TensorType::opaque) return row.type;
  }
  return std::nullopt;
}

bool io::is_float(TensorType type) {
  return type == TensorType::f32 || type == TensorType::f64 || type == TensorType::f16 ||
         type == TensorType::bf16;
}

void io::decode_floats(TensorType type, const std::byte* bytes, std::size_t count, float* out) {
  switch (type) {
    case TensorType::f32:
      if (count != 0) std::memcpy(out, bytes, count * sizeof(float));
      return;
    case TensorType::f64:
      decode_each<double>(bytes, count, out,
                          [](double value) { return static_cast<float>(value); });
      return;
    case TensorType::f16:
      decode_each<std::uint16_t>(bytes, count, out, half_to_float);
      return;
    case TensorType::bf16:
      decode_each<std::uint16_t>(bytes, count, out,
                                 [](std::uint16_t bits) { return BFloat16{bits}.to_float(); });
      return;
    default:
      throw Error(ErrorCode::unsupported, "decode_floats: not a type of floats");
  }
}

std::vector<float> to_f32(const TensorView& tensor) {
  if (!io::is_float(tensor.type)) {
    throw Error(ErrorCode::unsupported,
                fmt::format("tensor {}: type {}, expected F32, F16, BF16 or F64",
                            io::quote(tensor.name), tensor_type_name(tensor)));
  }
  const auto expected = io::byte_count(tensor.shape, tensor_type_bits(tensor.type));
  if (expected != tensor.bytes.size()) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("tensor {}: {} bytes do not fit shape {} of {}", io::quote(tensor.name),
                            tensor.bytes.size(), io::shape_text(tensor.shape),
                            tensor_type_name(tensor.type)));
  }
  std::vector<float> out(tensor.bytes.size() * 8 / tensor_type_bits(tensor.type));
  io::decode_floats(tensor.type, tensor.bytes.data(), out.size(), out.data());
  return out;
}

}  // namespace nybble
