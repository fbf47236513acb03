#include "nybble/io/npy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <cstring>

#include "nybble/error.h"
#include "nybble/io/atomic_file.h"
#include "nybble/io/mapped_file.h"
#include "nybble/numeric/float16.h"
#include "src/check_enum.h"
#include "src/io/checked.h"
#include "src/io/decode_floats.h"
#include "src/io/npy_header.h"

namespace nybble {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little endian");

// The layout of numpy.lib.format: magic, version, header length, header, data.
constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kVersionBytes = 2;
constexpr std::size_t kHeaderAlignment = 64;
// numpy leaves room for the first axis to grow to any 64-bit size.
constexpr std::size_t kGrowthDigits = 21;

[[noreturn]] void fail(const std::string& name, const std::string& what) {
  throw Error(ErrorCode::bad_file, name + ": " + what);
}

struct Parts {
  std::string_view header;
  std::span<const std::byte> data;
};

Parts split(std::span<const std::byte> bytes, const std::string& name) {
  const std::size_t fixed = kMagic.size() + kVersionBytes;
  if (bytes.size() < fixed || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    fail(name, "not an npy file: expected the magic \\x93NUMPY and a version first");
  }
  const int major = std::to_integer<int>(bytes[kMagic.size()]);
  const int minor = std::to_integer<int>(bytes[kMagic.size() + 1]);
  if (major < 1 || major > 3 || minor != 0) {
    fail(name, fmt::format("npy version {}.{}, expected 1.0, 2.0 or 3.0", major, minor));
  }
  const std::size_t length_bytes = major == 1 ? 2 : 4;
  if (bytes.size() < fixed + length_bytes) fail(name, "ends inside the header length");
  std::size_t length = 0;
  for (std::size_t i = 0; i < length_bytes; ++i) {
    length |= std::to_integer<std::size_t>(bytes[fixed + i]) << (8 * i);
  }
  const auto rest = bytes.subspan(fixed + length_bytes);
  if (length > rest.size()) {
    fail(name, fmt::format("header length {} but only {} bytes follow it", length, rest.size()));
  }
  return {{reinterpret_cast<const char*>(rest.data()), length}, rest.subspan(length)};
}

/// Element (i0, i1, ...) moves from i0 + s0 * (i1 + s1 * ...) to its place in C order.
std::vector<std::byte> from_fortran_order(std::span<const std::byte> source,
                                          std::span<const std::size_t> shape,
                                          std::size_t item_size) {
  std::vector<std::byte> result(source.size());
  std::vector<std::size_t> strides(shape.size());
  std::size_t stride = item_size;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    strides[axis] = stride;
    stride *= shape[axis];
  }
  std::vector<std::size_t> position(shape.size());
  std::size_t from = 0;
  for (std::size_t to = 0; to < result.size(); to += item_size) {
    std::memcpy(result.data() + to, source.data() + from, item_size);
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      from += strides[axis];
      if (++position[axis] < shape[axis]) break;
      from -= strides[axis] * shape[axis];
      position[axis] = 0;
    }
  }
  return result;
}

/// Magic to newline: everything in front of the data.
std::string header_text(NpyType type, std::span<const std::size_t> shape) {
  std::string dict =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", npy_descr(type),
                  fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  if (!shape.empty()) dict.append(kGrowthDigits - fmt::formatted_size("{}", shape[0]), ' ');
  const std::size_t used = kMagic.size() + kVersionBytes + 2 + dict.size() + 1;
  // A full block where nothing is missing, as numpy does.
  dict.append(kHeaderAlignment - used % kHeaderAlignment, ' ');
  dict += '\n';
  std::string result(kMagic);
  result += {'\x01', '\x00'};
  result += static_cast<char>(dict.size() & 0xff);
  result += static_cast<char>(dict.size() >> 8);
  return result + dict;
}

}  // namespace

std::vector<float> NpyArray::as_f32() const {
  switch (type) {
    case NpyType::f32:
      return io::decode_floats<float>(data, [](float value) { return value; });
    case NpyType::f64:
      return io::decode_floats<double>(data,
                                       [](double value) { return static_cast<float>(value); });
    case NpyType::f16:
      return io::decode_floats<std::uint16_t>(
          data, [](std::uint16_t bits) { return Float16{bits}.to_float(); });
    default:
      throw Error(
          ErrorCode::unsupported,
          fmt::format("npy array of '{}', expected '<f4', '<f2' or '<f8'", npy_descr(type)));
  }
}

void NpyArray::require_type(NpyType expected) const {
  if (type == expected || (type == NpyType::boolean && expected == NpyType::u8)) return;
  throw Error(ErrorCode::unsupported, fmt::format("npy array of '{}', expected '{}'",
                                                  npy_descr(type), npy_descr(expected)));
}

NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& name) {
  const Parts parts = split(bytes, name);
  io::NpyHeader header = io::parse_npy_header(parts.header, name);
  const std::size_t item_size = npy_item_size(header.type);
  const auto expected = io::byte_count(header.shape, item_size * 8);
  if (expected != parts.data.size()) {
    fail(name, fmt::format("{} bytes of data do not fit shape {} of '{}'", parts.data.size(),
                           io::shape_text(header.shape), npy_descr(header.type)));
  }
  NpyArray array{header.type, std::move(header.shape), {}};
  if (header.fortran_order) {
    array.data = from_fortran_order(parts.data, array.shape, item_size);
  } else {
    array.data.assign(parts.data.begin(), parts.data.end());
  }
  return array;
}

NpyArray read_npy(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_npy(file.bytes(), path.string());
}

void write_npy(const std::filesystem::path& path, NpyType type, std::span<const std::size_t> shape,
               std::span<const std::byte> data) {
  check_enum(type, NpyType::boolean, "npy type");
  if (shape.size() > io::kNpyMaxRank) {
    throw Error(ErrorCode::bad_shape, fmt::format("{}: {} axes, expected at most {}", path.string(),
                                                  shape.size(), io::kNpyMaxRank));
  }
  if (io::byte_count(shape, npy_item_size(type) * 8) != data.size()) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("{}: {} bytes do not fit shape {} of '{}'", path.string(), data.size(),
                            io::shape_text(shape), npy_descr(type)));
  }
  const std::string header = header_text(type, shape);
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(header)));
  file.write(data);
  file.commit();
}

void write_npy(const std::filesystem::path& path, std::span<const std::size_t> shape,
               std::span<const float> values) {
  write_npy(path, NpyType::f32, shape, std::as_bytes(values));
}

void write_npy(const std::filesystem::path& path, std::span<const std::size_t> shape,
               std::span<const std::uint8_t> values) {
  write_npy(path, NpyType::u8, shape, std::as_bytes(values));
}

}  // namespace nybble
