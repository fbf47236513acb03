#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace nybble {

/// A whole file mapped for reading, unmapped by the destructor. Pages are read when touched, so a
/// checkpoint larger than memory can be opened. The mapping stays valid when the file is replaced
/// by rename (as AtomicFile does); truncating a mapped file in place kills the reader (POSIX).
class MappedFile {
 public:
  /// Maps nothing: bytes() is empty.
  MappedFile() = default;
  /// Maps `path`, which may be empty. Throws io, with the path and the reason, where it cannot be
  /// opened or is not a regular file.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  /// The contents; valid as long as this object, also after it is moved elsewhere.
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace nybble
