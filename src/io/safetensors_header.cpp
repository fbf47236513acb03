#include "src/io/safetensors_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <tuple>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/gguf_format.h"
#include "src/io/safetensors_format.h"
#include "src/io/strict_json.h"

namespace nybble::io {

namespace {

using nlohmann::json;

constexpr std::size_t kHeaderDepth = 3;  // header, tensor, shape
constexpr std::size_t kHeaderAlignment = 8;

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::bad_file, where + ": " + what);
}

std::map<std::string, std::string> read_metadata(const json& object, const std::string& name) {
  if (!object.is_object()) fail(name, "__metadata__ is not an object of strings");
  std::map<std::string, std::string> result;
  for (const auto& [key, value] : object.items()) {
    if (!value.is_string()) {
      fail(name, fmt::format("__metadata__ {} is not a string", quote(key)));
    }
    result.emplace(key, value.get<std::string>());
  }
  return result;
}

constexpr std::size_t kLongestType = 64;

/// Whether a type that is not known has a name such as those of the known ones.
bool is_type_name(std::string_view text) {
  const auto is_of_names = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  return !text.empty() && text.size() <= kLongestType &&
         std::all_of(text.begin(), text.end(), is_of_names);
}

std::vector<std::size_t> read_sizes(const json& array, const char* key, const std::string& where) {
  if (!array.is_array()) fail(where, fmt::format("{} is not an array", key));
  std::vector<std::size_t> result;
  for (const json& size : array) {
    if (!size.is_number_unsigned()) {
      fail(where,
           fmt::format("{} holds {}, expected unsigned integers below 2^64", key, show_json(size)));
    }
    result.push_back(size.get<std::size_t>());
  }
  return result;
}

void set_type(const std::string& dtype, const std::string& where, TensorInfo& tensor) {
  const auto known = tensor_type_from_name(dtype);
  if (!known && !is_type_name(dtype)) {
    fail(where,
         fmt::format("dtype {}, expected 1 to {} of A-Z, 0-9 and _", quote(dtype), kLongestType));
  }
  tensor.type = known.value_or(TensorType::opaque);
  if (!known) tensor.dtype = dtype;
}

/// The data begins at byte `data` and is `data_size` bytes.
TensorInfo read_tensor(const std::string& tensor_name, const json& entry, std::size_t data,
                       std::size_t data_size, const std::string& file_name) {
  const std::string where = fmt::format("{}: tensor {}", file_name, quote(tensor_name));
  if (!entry.is_object()) fail(where, "not an object of dtype, shape and data_offsets");
  for (const char* const key : {"dtype", "shape", "data_offsets"}) {
    if (!entry.contains(key)) fail(where, fmt::format("{} is missing", key));
  }
  if (entry.size() != 3) {
    fail(where, fmt::format("{} keys, expected only dtype, shape and data_offsets", entry.size()));
  }

  TensorInfo tensor;
  tensor.name = tensor_name;
  const json& dtype = entry["dtype"];
  if (!dtype.is_string()) fail(where, "dtype is not a string");
  set_type(dtype.get_ref<const std::string&>(), where, tensor);
  tensor.shape = read_sizes(entry["shape"], "shape", where);

  const auto offsets = read_sizes(entry["data_offsets"], "data_offsets", where);
  if (offsets.size() != 2) {
    fail(where, fmt::format("{} data_offsets, expected begin and end", offsets.size()));
  }
  const auto [begin, end] = std::tie(offsets[0], offsets[1]);
  if (begin > end) fail(where, fmt::format("data_offsets end {} before begin {}", end, begin));
  if (end > data_size) {
    fail(where,
         fmt::format("data_offsets end {}, expected at most the {} bytes of data", end, data_size));
  }
  tensor.offset = data + begin;
  tensor.bytes = end - begin;
  const auto expected = stored_bytes(tensor.type, tensor.shape, tensor.bytes);
  if (!expected) {
    fail(where, fmt::format("shape {} of {} is not a whole number of bytes below 2^64",
                            shape_text(tensor.shape), tensor_type_name(tensor)));
  }
  if (tensor.bytes != *expected) {
    fail(where,
         fmt::format("data_offsets hold {} bytes, expected {} for shape {} of {}", tensor.bytes,
                     *expected, shape_text(tensor.shape), tensor_type_name(tensor)));
  }
  return tensor;
}

/// Throws unless the tensors, sorted by offset, cover the data once.
void check_tiling(const std::vector<TensorInfo>& tensors, std::size_t data, std::size_t data_size,
                  const std::string& name) {
  std::size_t position = 0;
  for (const TensorInfo& tensor : tensors) {
    const std::size_t begin = tensor.offset - data;
    if (begin != position) {
      fail(
          fmt::format("{}: tensor {}", name, quote(tensor.name)),
          fmt::format("data_offsets begin {} {}, expected {}", begin,
                      begin < position ? "overlaps the tensor before" : "leaves a hole", position));
    }
    position += tensor.bytes;
  }
  if (position != data_size) {
    fail(name, fmt::format("tensors end at byte {} of {} bytes of data, expected no rest", position,
                           data_size));
  }
}

}  // namespace

std::size_t read_header_length(std::span<const std::byte> first, std::size_t file_size,
                               const std::string& name) {
  if (first.size() >= kGgufMagic.size() &&
      std::memcmp(first.data(), kGgufMagic.data(), kGgufMagic.size()) == 0) {
    fail(name, "is a GGUF file, expected a safetensors file or a folder of them");
  }
  if (first.size() < kLengthBytes || file_size < kLengthBytes) {
    fail(name, fmt::format("{} bytes, expected a header length of 8 bytes first", file_size));
  }
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length |= std::to_integer<std::uint64_t>(first[i]) << (8 * i);
  }
  if (length > kLargestHeader) {
    fail(name, fmt::format("header length {}, expected at most {}: is it a safetensors file?",
                           length, kLargestHeader));
  }
  const std::size_t available = file_size - kLengthBytes;
  if (length > available) {
    fail(name, fmt::format("header length {} but only {} bytes follow it", length, available));
  }
  return static_cast<std::size_t>(length);
}

std::optional<std::size_t> stored_bytes(TensorType type, std::span<const std::size_t> shape,
                                        std::size_t opaque_bytes) {
  if (type != TensorType::opaque) return byte_count(shape, tensor_type_bits(type));
  // Its elements can be counted, too.
  return byte_count(shape, 8) ? std::optional(opaque_bytes) : std::nullopt;
}

SafetensorsHeader parse_header(std::span<const std::byte> text, std::size_t file_size,
                               const std::string& name) {
  const std::size_t data = kLengthBytes + text.size();
  const std::size_t data_size = file_size - data;
  const json header = parse_strict_json(text, name, kHeaderDepth);
  SafetensorsHeader out;
  for (const auto& [key, value] : header.items()) {
    if (key == kMetadataKey) {
      out.metadata = read_metadata(value, name);
    } else {
      out.tensors.push_back(read_tensor(key, value, data, data_size, name));
    }
  }
  // An empty tensor goes before the one that begins at the same byte.
  std::sort(out.tensors.begin(), out.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tuple(a.offset, a.bytes, std::string_view(a.name)) <
           std::tuple(b.offset, b.bytes, std::string_view(b.name));
  });
  check_tiling(out.tensors, data, data_size, name);
  return out;
}

void check_tensor_name(const std::string& tensor, const std::string& name) {
  json_string(tensor, name + ": tensor name");
  if (tensor == kMetadataKey) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: tensor {}: the name is reserved", name, quote(tensor)));
  }
}

std::string write_header(std::span<TensorInfo> tensors,
                         const std::map<std::string, std::string>& metadata,
                         const std::string& name) {
  std::vector<std::string> entries;
  if (!metadata.empty()) {
    std::vector<std::string> texts;
    for (const auto& [key, value] : metadata) {
      texts.push_back(json_string(key, name) + ":" + json_string(value, name));
    }
    entries.push_back(fmt::format("\"{}\":{{{}}}", kMetadataKey, fmt::join(texts, ",")));
  }
  std::size_t position = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.type == TensorType::opaque && !is_type_name(tensor.dtype)) {
      throw Error(ErrorCode::bad_option, fmt::format("{}: tensor {}: an opaque type {}", name,
                                                     quote(tensor.name), quote(tensor.dtype)));
    }
    const std::size_t end = position + tensor.bytes;
    entries.push_back(fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                                  json_string(tensor.name, name), tensor_type_name(tensor),
                                  fmt::join(tensor.shape, ","), position, end));
    position = end;
  }
  std::string header = fmt::format("{{{}}}", fmt::join(entries, ","));
  header.resize((header.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  if (header.size() > kLargestHeader) {
    throw Error(ErrorCode::bad_option, fmt::format("{}: header of {} bytes, expected at most {}",
                                                   name, header.size(), kLargestHeader));
  }
  position = kLengthBytes + header.size();
  for (TensorInfo& tensor : tensors) {
    tensor.offset = position;
    position += tensor.bytes;
  }
  const std::uint64_t length = header.size();
  std::string out(kLengthBytes, '\0');
  std::memcpy(out.data(), &length, kLengthBytes);
  return out + header;
}

}  // namespace nybble::io
