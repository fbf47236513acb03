#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nybble/io/file_descriptor.h"
#include "nybble/io/tensor_info.h"

namespace nybble {

/// One .safetensors file of which only the header is in memory: tensors are read piece by piece,
/// so that a file larger than the address space can be used. Checked on opening as SafetensorsFile
/// checks. Reading from several threads at once is safe.
class TensorFile {
 public:
  /// Throws io and bad_file.
  explicit TensorFile(const std::filesystem::path& path);

  /// All tensors in the order of their data.
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const noexcept { return tensors_; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept {
    return metadata_;
  }
  /// Null where there is none.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
  /// The path it was opened with.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// Bytes of the whole file.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// Fills `out` with the tensor's bytes from `begin` on. Throws bad_option beyond its end; io
  /// where the system refuses or the file became shorter.
  void read(const TensorInfo& tensor, std::size_t begin, std::span<std::byte> out) const;
  /// All its bytes, for tensors that are known to be small.
  [[nodiscard]] std::vector<std::byte> read(const TensorInfo& tensor) const;
  /// Asks the system to read a tensor ahead, and returns at once.
  void will_need(const TensorInfo& tensor) const noexcept;

 private:
  std::string name_;
  FileDescriptor file_;
  std::size_t size_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// The tensors of one model as Checkpoint finds them, its shards open as TensorFiles.
class TensorFiles {
 public:
  /// A tensor and the file it is in.
  struct Entry {
    const TensorFile* file;
    const TensorInfo* tensor;
  };

  /// A .safetensors file or a folder. Throws as Checkpoint.
  explicit TensorFiles(const std::filesystem::path& path);

  /// Sorted by name.
  [[nodiscard]] const std::vector<TensorFile>& files() const noexcept { return files_; }
  /// File by file in the order of the data.
  [[nodiscard]] const std::vector<Entry>& tensors() const noexcept { return tensors_; }
  /// Null members where there is none.
  [[nodiscard]] Entry find(std::string_view name) const;
  /// The path it was opened with.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  std::string name_;
  std::vector<TensorFile> files_;
  std::vector<Entry> tensors_;
  std::map<std::string_view, Entry> index_;
};

}  // namespace nybble
