#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "nybble/error.h"
#include "nybble/io/gguf.h"
#include "src/io/checked.h"
#include "src/io/gguf_format.h"

namespace nybble {
namespace {

class Output {
 public:
  template <class T>
  void put(T number) {
    static_assert(std::is_arithmetic_v<T>);
    put_bytes(&number, sizeof(T));
  }
  void put_text(std::string_view text) {
    put<std::uint64_t>(text.size());
    put_bytes(text.data(), text.size());
  }
  void put_array(const GgufArray& array) {
    put(static_cast<std::uint32_t>(array.values.index()));
    put<std::uint64_t>(array.size());
    std::visit([&](const auto& elements) { put_elements(elements); }, array.values);
  }
  void put_value(const GgufValue& value) {
    put(static_cast<std::uint32_t>(value.index()));
    std::visit([&](const auto& element) { put_element(element); }, value);
  }
  [[nodiscard]] std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  void put_bytes(const void* data, std::size_t size) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + size);
    if (size != 0) std::memcpy(&bytes_[at], data, size);
  }
  template <class T>
  void put_element(const T& element) {
    if constexpr (std::is_same_v<T, bool>) {
      put<std::uint8_t>(element ? 1 : 0);
    } else if constexpr (std::is_same_v<T, std::string>) {
      put_text(element);
    } else if constexpr (std::is_same_v<T, GgufArray>) {
      put_array(element);
    } else {
      put(element);
    }
  }
  template <class T>
  void put_elements(const std::vector<T>& elements) {
    for (const T& element : elements) put_element(element);
  }
  void put_elements(const std::vector<bool>& elements) {
    for (const bool element : elements) put_element(element);
  }

  std::vector<std::byte> bytes_;
};

/// Arrays inside one another, counting this one.
std::size_t depth(const GgufArray& array) {
  std::size_t inner = 0;
  if (const auto* const arrays = std::get_if<std::vector<GgufArray>>(&array.values)) {
    for (const GgufArray& element : *arrays) inner = std::max(inner, depth(element));
  }
  return 1 + inner;
}

}  // namespace

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufWriterOptions& options)
    : file_(path), options_(options) {
  if (options.version == 2 || options.version == 3) return;
  throw Error(ErrorCode::bad_option,
              fmt::format("{}: GGUF version {}, expected 2 or 3", path.string(), options.version));
}

void GgufWriter::set(const std::string& key, GgufValue value) {
  const std::string where = fmt::format("{}: key {}", file_.target().string(), io::quote(key));
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::bad_option, fmt::format("{}: {}", where, what));
  };
  if (key.size() > io::kLongestKey) {
    refuse(fmt::format("{} bytes long, expected at most {}", key.size(), io::kLongestKey));
  }
  if (const auto* const array = std::get_if<GgufArray>(&value)) {
    if (depth(*array) > io::kDeepestArray) {
      refuse(fmt::format("arrays {} deep, expected at most {}", depth(*array), io::kDeepestArray));
    }
  }
  if (key == io::kAlignmentKey) {
    const auto* const number = std::get_if<std::uint32_t>(&value);
    if (number == nullptr || !io::is_alignment(*number)) refuse("expected a power of two as u32");
    alignment_ = *number;
  }
  if (!keys_.insert(key).second) refuse("set twice, expected each key once");
  values_.emplace_back(key, std::move(value));
}

void GgufWriter::add(const std::string& name, GgufType type, std::span<const std::size_t> shape,
                     std::span<const std::byte> bytes) {
  add(Entry{{name, type, {shape.begin(), shape.end()}, bytes}, bytes.size(), {}});
}

void GgufWriter::add(const std::string& name, GgufType type, std::span<const std::size_t> shape,
                     std::function<std::vector<std::byte>()> make_bytes) {
  const std::size_t size = io::gguf_bytes(type, shape).value_or(0);
  add(Entry{{name, type, {shape.begin(), shape.end()}, {}}, size, std::move(make_bytes)});
}

void GgufWriter::add(Entry entry) {
  const GgufTensor& tensor = entry.tensor;
  const std::string where =
      fmt::format("{}: tensor {}", file_.target().string(), io::quote(tensor.name));
  if (tensor.name.size() > io::kLongestTensorName) {
    throw Error(ErrorCode::bad_option,
                fmt::format("{}: name of {} bytes, ggml reads at most {}", where,
                            tensor.name.size(), io::kLongestTensorName));
  }
  const auto expected = io::gguf_bytes(tensor.type, tensor.shape);
  if (tensor.shape.size() > io::kMostAxes || expected != entry.size) {
    throw Error(
        ErrorCode::bad_shape,
        fmt::format("{}: {} bytes do not fit shape {} of {} (blocks of {} values, at most "
                    "{} axes)",
                    where, entry.size, io::shape_text(tensor.shape), gguf_type_name(tensor.type),
                    gguf_block_values(tensor.type), io::kMostAxes));
  }
  if (!names_.insert(tensor.name).second) {
    throw Error(ErrorCode::bad_option, where + ": added twice, expected each name once");
  }
  entries_.push_back(std::move(entry));
}

std::vector<std::byte> GgufWriter::header() const {
  Output out;
  for (const char c : io::kGgufMagic) out.put(c);
  out.put(options_.version);
  out.put<std::uint64_t>(entries_.size());
  out.put<std::uint64_t>(values_.size());
  for (const auto& [key, value] : values_) {
    out.put_text(key);
    out.put_value(value);
  }
  std::size_t position = 0;
  for (const Entry& entry : entries_) {
    const GgufTensor& tensor = entry.tensor;
    const auto offset = io::round_up(position, alignment_);
    if (!offset || entry.size > std::numeric_limits<std::size_t>::max() - *offset) {
      throw Error(ErrorCode::bad_shape,
                  fmt::format("{}: tensors of more than 2^64 bytes", file_.target().string()));
    }
    out.put_text(tensor.name);
    out.put(static_cast<std::uint32_t>(tensor.shape.size()));
    for (std::size_t i = tensor.shape.size(); i-- > 0;) out.put<std::uint64_t>(tensor.shape[i]);
    out.put(static_cast<std::uint32_t>(tensor.type));
    out.put<std::uint64_t>(*offset);
    position = *offset + entry.size;
  }
  return out.take();
}

void GgufWriter::finish() {
  std::vector<std::byte> bytes = header();
  file_.write(bytes);
  std::size_t position = bytes.size();
  const auto pad = [&] {
    const std::size_t end = io::round_up(position, alignment_).value_or(position);
    // In pieces: an alignment may be 2 GiB.
    static constexpr std::byte kZeros[4096] = {};
    while (position < end) {
      const std::size_t count = std::min(end - position, sizeof(kZeros));
      file_.write(std::span(kZeros).first(count));
      position += count;
    }
  };
  for (const Entry& entry : entries_) {
    if (entry.size == 0) continue;
    pad();
    if (entry.make_bytes) {
      bytes = entry.make_bytes();
      if (bytes.size() != entry.size) {
        throw Error(
            ErrorCode::bad_shape,
            fmt::format("{}: tensor {}: {} bytes made, expected {}", file_.target().string(),
                        io::quote(entry.tensor.name), bytes.size(), entry.size));
      }
      file_.write(bytes);
    } else {
      file_.write(entry.tensor.bytes);
    }
    position += entry.size;
    bytes = {};
  }
  if (!options_.ends_unpadded) pad();
  file_.commit();
}

}  // namespace nybble
