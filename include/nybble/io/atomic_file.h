#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace nybble {

/// A file that appears complete or not at all: bytes go to a temporary beside the target, commit()
/// renames it over the target. Until then an existing target is untouched, and a process that has
/// it mapped keeps the old contents afterwards.
class AtomicFile {
 public:
  /// Creates the temporary. A symbolic link to a file is followed. Throws io, with the path and the
  /// reason, where that fails or where the target exists and is not a regular file.
  explicit AtomicFile(const std::filesystem::path& target);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  /// Removes the temporary unless commit() succeeded.
  ~AtomicFile();

  /// Appends. Throws io (a full disk, say).
  void write(std::span<const std::byte> bytes);
  /// Brings the bytes to the disk and renames. Throws io and leaves the target as it was. Only
  /// once; nothing can be written afterwards.
  void commit();

  [[nodiscard]] const std::filesystem::path& target() const noexcept { return target_; }

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

}  // namespace nybble
