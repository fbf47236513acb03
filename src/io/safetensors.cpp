#include "nybble/io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/safetensors_format.h"
#include "src/io/strict_json.h"

namespace nybble {
namespace {

using nlohmann::json;

constexpr std::size_t kHeaderDepth = 3;  // header, tensor, shape

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::bad_file, where + ": " + what);
}

/// The JSON between the length and the data.
std::span<const std::byte> header_of(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() < io::kLengthBytes) {
    fail(name, fmt::format("{} bytes, expected a header length of 8 bytes first", bytes.size()));
  }
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < io::kLengthBytes; ++i) {
    length |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  }
  if (length > io::kLargestHeader) {
    fail(name, fmt::format("header length {}, expected at most {}", length, io::kLargestHeader));
  }
  const std::size_t available = bytes.size() - io::kLengthBytes;
  if (length > available) {
    fail(name, fmt::format("header length {} but only {} bytes follow it", length, available));
  }
  return bytes.subspan(io::kLengthBytes, static_cast<std::size_t>(length));
}

std::map<std::string, std::string> read_metadata(const json& object, const std::string& name) {
  if (!object.is_object()) fail(name, "__metadata__ is not an object of strings");
  std::map<std::string, std::string> result;
  for (const auto& [key, value] : object.items()) {
    if (!value.is_string()) {
      fail(name, fmt::format("__metadata__ {} is not a string", io::quote(key)));
    }
    result.emplace(key, value.get<std::string>());
  }
  return result;
}

std::vector<std::size_t> read_sizes(const json& array, const char* key, const std::string& where) {
  if (!array.is_array()) fail(where, fmt::format("{} is not an array", key));
  std::vector<std::size_t> result;
  for (const json& size : array) {
    if (!size.is_number_unsigned()) {
      fail(where, fmt::format("{} holds {}, expected unsigned integers below 2^64", key,
                              io::quote(size.dump())));
    }
    result.push_back(size.get<std::size_t>());
  }
  return result;
}

TensorView read_tensor(const std::string& tensor_name, const json& entry,
                       std::span<const std::byte> data, const std::string& file_name) {
  const std::string where = fmt::format("{}: tensor {}", file_name, io::quote(tensor_name));
  if (!entry.is_object()) fail(where, "not an object of dtype, shape and data_offsets");
  for (const char* const key : {"dtype", "shape", "data_offsets"}) {
    if (!entry.contains(key)) fail(where, fmt::format("{} is missing", key));
  }
  if (entry.size() != 3) {
    fail(where, fmt::format("{} keys, expected only dtype, shape and data_offsets", entry.size()));
  }

  TensorView tensor;
  tensor.name = tensor_name;
  const json& dtype = entry["dtype"];
  if (!dtype.is_string()) fail(where, "dtype is not a string");
  const auto type = io::tensor_type_from_name(dtype.get_ref<const std::string&>());
  if (!type) {
    fail(where, fmt::format("unknown dtype {}", io::quote(dtype.get_ref<const std::string&>())));
  }
  tensor.type = *type;
  tensor.shape = read_sizes(entry["shape"], "shape", where);

  const auto offsets = read_sizes(entry["data_offsets"], "data_offsets", where);
  if (offsets.size() != 2) {
    fail(where, fmt::format("{} data_offsets, expected begin and end", offsets.size()));
  }
  const auto [begin, end] = std::tie(offsets[0], offsets[1]);
  if (begin > end) fail(where, fmt::format("data_offsets end {} before begin {}", end, begin));
  if (end > data.size()) {
    fail(where, fmt::format("data_offsets end {}, expected at most the {} bytes of data", end,
                            data.size()));
  }
  const auto expected = io::byte_count(tensor.shape, tensor_type_bits(tensor.type));
  if (!expected) {
    fail(where, fmt::format("shape {} of {} is not a whole number of bytes below 2^64",
                            io::shape_text(tensor.shape), tensor_type_name(tensor.type)));
  }
  if (end - begin != *expected) {
    fail(where,
         fmt::format("data_offsets hold {} bytes, expected {} for shape {} of {}", end - begin,
                     *expected, io::shape_text(tensor.shape), tensor_type_name(tensor.type)));
  }
  tensor.bytes = data.subspan(begin, end - begin);
  return tensor;
}

/// Throws unless the tensors, sorted by offset, cover the data once.
void check_tiling(const std::vector<TensorView>& tensors, std::span<const std::byte> data,
                  const std::string& name) {
  std::size_t position = 0;
  for (const TensorView& tensor : tensors) {
    const auto begin = static_cast<std::size_t>(tensor.bytes.data() - data.data());
    if (begin != position) {
      fail(
          fmt::format("{}: tensor {}", name, io::quote(tensor.name)),
          fmt::format("data_offsets begin {} {}, expected {}", begin,
                      begin < position ? "overlaps the tensor before" : "leaves a hole", position));
    }
    position += tensor.bytes.size();
  }
  if (position != data.size()) {
    fail(name, fmt::format("tensors end at byte {} of {} bytes of data, expected no rest", position,
                           data.size()));
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : name_(path.string()), mapping_(path) {
  read(mapping_.bytes());
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  SafetensorsFile file;
  file.name_ = name;
  file.read(bytes);
  return file;
}

void SafetensorsFile::read(std::span<const std::byte> bytes) {
  const std::span<const std::byte> header_text = header_of(bytes, name_);
  const std::span<const std::byte> data = bytes.subspan(io::kLengthBytes + header_text.size());
  const json header = io::parse_strict_json(header_text, name_, kHeaderDepth);
  for (const auto& [key, value] : header.items()) {
    if (key == io::kMetadataKey) {
      metadata_ = read_metadata(value, name_);
    } else {
      tensors_.push_back(read_tensor(key, value, data, name_));
    }
  }
  // An empty tensor goes before the one that begins at the same byte.
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorView& a, const TensorView& b) {
    return std::tuple(a.bytes.data(), a.bytes.size(), std::string_view(a.name)) <
           std::tuple(b.bytes.data(), b.bytes.size(), std::string_view(b.name));
  });
  check_tiling(tensors_, data, name_);
  for (const TensorView& tensor : tensors_) index_.emplace(tensor.name, &tensor);
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : found->second;
}

const TensorView& SafetensorsFile::at(std::string_view name) const {
  if (const TensorView* const tensor = find(name)) return *tensor;
  std::vector<std::string_view> names;
  for (const TensorView& tensor : tensors_) names.push_back(tensor.name);
  throw Error(ErrorCode::bad_option, fmt::format("{}: no tensor {}, {}", name_, io::quote(name),
                                                 io::name_hint(name, names)));
}

}  // namespace nybble
