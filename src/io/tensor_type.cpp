#include <fmt/format.h>

#include <bit>
#include <cstdint>

#include "nybble/error.h"
#include "nybble/io/safetensors.h"
#include "nybble/numeric/bfloat16.h"
#include "nybble/numeric/float16.h"
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
    {TensorType::f64, "F64", 64},        {TensorType::f32, "F32", 32},
    {TensorType::f16, "F16", 16},        {TensorType::bf16, "BF16", 16},
    {TensorType::u64, "U64", 64},        {TensorType::i64, "I64", 64},
    {TensorType::u32, "U32", 32},        {TensorType::i32, "I32", 32},
    {TensorType::u16, "U16", 16},        {TensorType::i16, "I16", 16},
    {TensorType::u8, "U8", 8},           {TensorType::i8, "I8", 8},
    {TensorType::boolean, "BOOL", 8},    {TensorType::f8_e4m3, "F8_E4M3", 8},
    {TensorType::f8_e5m2, "F8_E5M2", 8}, {TensorType::f8_e8m0, "F8_E8M0", 8},
    {TensorType::f6_e2m3, "F6_E2M3", 6}, {TensorType::f6_e3m2, "F6_E3M2", 6},
    {TensorType::f4, "F4", 4},
};

constexpr bool rows_follow_the_enum() {
  for (std::size_t i = 0; i < std::size(kTypes); ++i) {
    if (static_cast<std::size_t>(kTypes[i].type) != i) return false;
  }
  return true;
}
static_assert(rows_follow_the_enum());

const TypeRow& row_of(TensorType type) { return kTypes[static_cast<std::size_t>(type)]; }

}  // namespace

std::string_view tensor_type_name(TensorType type) noexcept { return row_of(type).name; }

std::size_t tensor_type_bits(TensorType type) noexcept { return row_of(type).bits; }

std::optional<TensorType> io::tensor_type_from_name(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (row.name == name) return row.type;
  }
  return std::nullopt;
}

std::vector<float> to_f32(const TensorView& tensor) {
  const auto expected = io::byte_count(tensor.shape, tensor_type_bits(tensor.type));
  if (expected != tensor.bytes.size()) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("tensor {}: {} bytes do not fit shape {} of {}", io::quote(tensor.name),
                            tensor.bytes.size(), io::shape_text(tensor.shape),
                            tensor_type_name(tensor.type)));
  }
  switch (tensor.type) {
    case TensorType::f32:
      return io::decode_floats<float>(tensor.bytes, [](float value) { return value; });
    case TensorType::f64:
      return io::decode_floats<double>(tensor.bytes,
                                       [](double value) { return static_cast<float>(value); });
    case TensorType::f16:
      return io::decode_floats<std::uint16_t>(
          tensor.bytes, [](std::uint16_t bits) { return Float16{bits}.to_float(); });
    case TensorType::bf16:
      return io::decode_floats<std::uint16_t>(
          tensor.bytes, [](std::uint16_t bits) { return BFloat16{bits}.to_float(); });
    default:
      throw Error(ErrorCode::unsupported,
                  fmt::format("tensor {}: type {}, expected F32, F16, BF16 or F64",
                              io::quote(tensor.name), tensor_type_name(tensor.type)));
  }
}

}  // namespace nybble
