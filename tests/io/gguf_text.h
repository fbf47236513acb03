#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace nybble::test {

/// A .gguf file written field by field, so that any field can be wrong.
class GgufText {
 public:
  GgufText(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
    bytes_ = "GGUF";
    put(version).put(tensors).put(keys);
  }

  template <class T>
  GgufText& put(T number) {
    char raw[sizeof(T)];
    std::memcpy(raw, &number, sizeof(T));
    bytes_.append(raw, sizeof(T));
    return *this;
  }
  GgufText& text(std::string_view value) {
    put<std::uint64_t>(value.size());
    bytes_ += value;
    return *this;
  }
  /// A key and the type of what follows.
  GgufText& key(std::string_view name, std::uint32_t type) { return text(name).put(type); }
  /// `dims` as in the file: K first.
  GgufText& tensor(std::string_view name, const std::vector<std::uint64_t>& dims,
                   std::uint32_t type, std::uint64_t offset) {
    text(name).put(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t size : dims) put(size);
    return put(type).put(offset);
  }
  GgufText& pad(std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  GgufText& data(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace nybble::test
