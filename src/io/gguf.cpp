#include "nybble/io/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/gguf_format.h"

namespace nybble {
namespace {

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::bad_file, where + ": " + what);
}

/// Reads a file from front to back. Every count is held against the bytes that are left before
/// anything is allocated for it.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  [[nodiscard]] std::size_t position() const { return position_; }
  [[nodiscard]] std::size_t left() const { return bytes_.size() - position_; }

  /// Throws bad_file unless `count` items of at least `size` bytes can follow.
  void expect(std::uint64_t count, std::size_t size, const std::string& where,
              const char* what) const {
    if (count <= left() / size) return;
    fail(where, fmt::format("{} {}, but only {} bytes of the file are left", count, what, left()));
  }

  template <class T>
  T take(const std::string& where) {
    static_assert(std::is_arithmetic_v<T>);
    expect(sizeof(T), 1, where, "bytes expected");
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  std::string take_text(const std::string& where) {
    const auto length = take<std::uint64_t>(where);
    expect(length, 1, where, "bytes of text");
    const auto size = static_cast<std::size_t>(length);
    std::string text(reinterpret_cast<const char*>(bytes_.data()) + position_, size);
    position_ += size;
    return text;
  }

  template <class T>
  std::vector<T> take_numbers(std::uint64_t count, const std::string& where) {
    expect(count, sizeof(T), where, "array elements");
    std::vector<T> values(static_cast<std::size_t>(count));
    if (!values.empty()) {
      std::memcpy(values.data(), bytes_.data() + position_, values.size() * sizeof(T));
    }
    position_ += values.size() * sizeof(T);
    return values;
  }

 private:
  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
};

bool take_bool(Cursor& cursor, const std::string& where) {
  const auto byte = cursor.take<std::uint8_t>(where);
  if (byte > 1) fail(where, fmt::format("bool {}, expected 0 or 1", byte));
  return byte == 1;
}

GgufArray take_array(Cursor& cursor, const std::string& where, std::size_t depth);

/// The elements of an array whose type is alternative `index` of GgufArray.
template <std::size_t index>
void take_elements(Cursor& cursor, std::uint64_t count, const std::string& where, std::size_t depth,
                   GgufArray& array) {
  using Elements = std::variant_alternative_t<index, decltype(GgufArray::values)>;
  using Element = typename Elements::value_type;
  constexpr std::size_t kTextBytes = 8;    // of an empty one: its length
  constexpr std::size_t kArrayBytes = 12;  // of an empty one: type and count
  if constexpr (std::is_same_v<Element, bool>) {
    cursor.expect(count, 1, where, "array elements");
    std::vector<bool> values;
    for (std::uint64_t i = 0; i < count; ++i) values.push_back(take_bool(cursor, where));
    array.values = std::move(values);
  } else if constexpr (std::is_arithmetic_v<Element>) {
    array.values = cursor.take_numbers<Element>(count, where);
  } else {
    constexpr bool text = std::is_same_v<Element, std::string>;
    cursor.expect(count, text ? kTextBytes : kArrayBytes, where, "array elements");
    Elements values;
    for (std::uint64_t i = 0; i < count; ++i) {
      if constexpr (text) {
        values.push_back(cursor.take_text(where));
      } else {
        values.push_back(take_array(cursor, where, depth + 1));
      }
    }
    array.values = std::move(values);
  }
}

/// Calls action(std::integral_constant<index>) for the alternative with that run-time index.
template <class Variant, class Action, std::size_t... indices>
bool with_index(std::uint32_t index, const Action& action, std::index_sequence<indices...>) {
  return (
      (index == indices ? (action(std::integral_constant<std::size_t, indices>{}), true) : false) ||
      ...);
}
template <class Variant, class Action>
bool with_index(std::uint32_t index, const Action& action) {
  return with_index<Variant>(index, action,
                             std::make_index_sequence<std::variant_size_v<Variant>>{});
}

GgufArray take_array(Cursor& cursor, const std::string& where, std::size_t depth) {
  if (depth > io::kDeepestArray) {
    fail(where, fmt::format("arrays more than {} deep", io::kDeepestArray));
  }
  const auto type = cursor.take<std::uint32_t>(where);
  const auto count = cursor.take<std::uint64_t>(where);
  GgufArray array;
  const bool known = with_index<decltype(GgufArray::values)>(type, [&](auto index) {
    take_elements<decltype(index)::value>(cursor, count, where, depth, array);
  });
  if (!known) fail(where, fmt::format("array of unknown type {}, expected 0 to 12", type));
  return array;
}

GgufValue take_value(Cursor& cursor, const std::string& where) {
  const auto type = cursor.take<std::uint32_t>(where);
  GgufValue value;
  const bool known = with_index<GgufValue>(type, [&](auto index) {
    using T = std::variant_alternative_t<decltype(index)::value, GgufValue>;
    if constexpr (std::is_same_v<T, bool>) {
      value = take_bool(cursor, where);
    } else if constexpr (std::is_same_v<T, std::string>) {
      value = cursor.take_text(where);
    } else if constexpr (std::is_same_v<T, GgufArray>) {
      value = take_array(cursor, where, 1);
    } else {
      value = cursor.take<T>(where);
    }
  });
  if (!known) fail(where, fmt::format("unknown type {}, expected 0 to 12", type));
  return value;
}

struct TensorInfo {
  GgufTensor tensor;
  std::uint64_t offset;
};

TensorInfo take_info(Cursor& cursor, const std::string& file_name, std::uint64_t number) {
  TensorInfo info;
  GgufTensor& tensor = info.tensor;
  std::string where = fmt::format("{}: tensor {}", file_name, number);
  tensor.name = cursor.take_text(where);
  if (tensor.name.size() > io::kLongestKey) {
    fail(where,
         fmt::format("name of {} bytes, expected at most {}", tensor.name.size(), io::kLongestKey));
  }
  where = fmt::format("{}: tensor {}", file_name, io::quote(tensor.name));
  const auto axes = cursor.take<std::uint32_t>(where);
  if (axes > io::kMostAxes) {
    fail(where, fmt::format("{} axes, expected at most {}", axes, io::kMostAxes));
  }
  for (const std::uint64_t size : cursor.take_numbers<std::uint64_t>(axes, where)) {
    // ggml's own are signed.
    if (size > std::numeric_limits<std::int64_t>::max()) {
      fail(where, fmt::format("an axis of {}, expected less than 2^63", size));
    }
    tensor.shape.insert(tensor.shape.begin(), static_cast<std::size_t>(size));
  }
  const auto type = cursor.take<std::uint32_t>(where);
  const auto known = io::gguf_type_from_number(type);
  if (!known) fail(where, fmt::format("unknown type {}", type));
  tensor.type = *known;
  info.offset = cursor.take<std::uint64_t>(where);
  return info;
}

/// Gives the tensors their bytes: as ggml demands, one after the other. Returns where they end.
std::size_t place_tensors(std::vector<TensorInfo>& infos, std::span<const std::byte> data,
                          std::uint32_t alignment, const std::string& file_name) {
  std::size_t position = 0;
  for (TensorInfo& info : infos) {
    GgufTensor& tensor = info.tensor;
    const std::string where = fmt::format("{}: tensor {}", file_name, io::quote(tensor.name));
    const auto size = io::gguf_bytes(tensor.type, tensor.shape);
    const std::string what =
        fmt::format("shape {} of {}", io::shape_text(tensor.shape), gguf_type_name(tensor.type));
    if (!size) {
      fail(where, fmt::format("{} is not whole blocks of {} values or more than 2^64 bytes", what,
                              gguf_block_values(tensor.type)));
    }
    const auto begin = io::round_up(position, alignment);
    if (info.offset % alignment != 0) {
      fail(where, fmt::format("offset {}, expected a multiple of {}", info.offset, alignment));
    }
    if (info.offset != begin) {
      fail(where,
           fmt::format("offset {} {}, expected {}", info.offset,
                       info.offset < position ? "overlaps the tensor before" : "leaves a hole",
                       begin.value_or(position)));
    }
    if (info.offset > data.size() || *size > data.size() - info.offset) {
      fail(where, fmt::format("{} needs {} bytes from offset {} on, the file has {} bytes of data",
                              what, *size, info.offset, data.size()));
    }
    tensor.bytes = data.subspan(static_cast<std::size_t>(info.offset), *size);
    position = static_cast<std::size_t>(info.offset) + *size;
  }
  return position;
}

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& path) : name_(path.string()), mapping_(path) {
  read(mapping_.bytes());
}

GgufFile GgufFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  GgufFile file;
  file.name_ = name;
  file.read(bytes);
  return file;
}

void GgufFile::read(std::span<const std::byte> bytes) {
  Cursor cursor(bytes);
  cursor.expect(io::kGgufMagic.size(), 1, name_, "bytes expected");
  std::string magic;
  for (std::size_t i = 0; i < io::kGgufMagic.size(); ++i) magic += cursor.take<char>(name_);
  if (magic != io::kGgufMagic) {
    fail(name_, fmt::format("begins with {}, expected \"GGUF\"", io::quote(magic)));
  }
  version_ = cursor.take<std::uint32_t>(name_);
  if (version_ != 2 && version_ != 3) {
    const bool big_endian = (version_ & 0xFFFF) == 0 && version_ != 0;
    throw Error(ErrorCode::unsupported, fmt::format("{}: version {}{}, expected 2 or 3", name_,
                                                    version_, big_endian ? " (big endian)" : ""));
  }
  const auto tensor_count = cursor.take<std::uint64_t>(name_);
  const auto key_count = cursor.take<std::uint64_t>(name_);
  constexpr std::size_t kSmallestInfo = 8 + 4 + 4 + 8;  // length of name, axes, type, offset
  constexpr std::size_t kSmallestKey = 8 + 4 + 1;       // length of key, type, one byte
  cursor.expect(tensor_count, kSmallestInfo, name_, "tensors");
  cursor.expect(key_count, kSmallestKey, name_, "keys");

  for (std::uint64_t i = 0; i < key_count; ++i) {
    std::string key = cursor.take_text(fmt::format("{}: key {}", name_, i));
    if (key.size() > io::kLongestKey) {
      fail(fmt::format("{}: key {}", name_, i),
           fmt::format("{} bytes long, expected at most {}", key.size(), io::kLongestKey));
    }
    GgufValue value = take_value(cursor, fmt::format("{}: key {}", name_, io::quote(key)));
    values_.emplace_back(std::move(key), std::move(value));
  }
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (keys_.emplace(values_[i].first, i).second) continue;
    fail(fmt::format("{}: key {}", name_, io::quote(values_[i].first)),
         "is there twice, expected each key once");
  }
  if (const GgufValue* const given = value(io::kAlignmentKey)) {
    const auto* const number = std::get_if<std::uint32_t>(given);
    if (number == nullptr || !io::is_alignment(*number)) {
      fail(
          fmt::format("{}: key {}", name_, io::quote(io::kAlignmentKey)),
          number == nullptr ? "is not a u32" : fmt::format("{}, expected a power of two", *number));
    }
    alignment_ = *number;
  }

  std::vector<TensorInfo> infos;
  for (std::uint64_t i = 0; i < tensor_count; ++i) infos.push_back(take_info(cursor, name_, i));
  const std::size_t header = cursor.position();
  // A file without data may end with its header.
  const auto data_begin = io::round_up(header, alignment_);
  const std::size_t begin = std::min(bytes.size(), data_begin.value_or(bytes.size()));
  const std::span<const std::byte> data = bytes.subspan(begin);
  const std::size_t end = place_tensors(infos, data, alignment_, name_);
  for (TensorInfo& info : infos) tensors_.push_back(std::move(info.tensor));
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (index_.emplace(tensors_[i].name, i).second) continue;
    fail(fmt::format("{}: tensor {}", name_, io::quote(tensors_[i].name)),
         "is there twice, expected each name once");
  }

  const std::size_t data_end = end == 0 ? header : begin + end;
  const std::size_t padded = io::round_up(data_end, alignment_).value_or(data_end);
  ends_unpadded_ = bytes.size() == data_end && padded != data_end;
  if (!ends_unpadded_ && bytes.size() != padded) {
    fail(name_, fmt::format("{} bytes, expected the end of the data at {}, padded to {}",
                            bytes.size(), data_end, padded));
  }
}

const GgufValue* GgufFile::value(std::string_view key) const {
  const auto found = keys_.find(key);
  return found == keys_.end() ? nullptr : &values_[found->second].second;
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const GgufTensor& GgufFile::at(std::string_view name) const {
  if (const GgufTensor* const tensor = find(name)) return *tensor;
  std::vector<std::string_view> names;
  for (const GgufTensor& tensor : tensors_) names.push_back(tensor.name);
  throw Error(ErrorCode::bad_option, fmt::format("{}: no tensor {}, {}", name_, io::quote(name),
                                                 io::name_hint(name, names)));
}

}  // namespace nybble
