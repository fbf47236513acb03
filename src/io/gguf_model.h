#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nybble/io/gguf.h"

namespace nybble::io {

/// A model in GGUF: a file, or all the parts of one that was split (PREFIX-00001-of-00003.gguf and
/// so on; keys split.no, split.count and split.tensors.count), as if it had not been.
class GgufModel {
 public:
  /// `path` is the file or any of the parts. Throws what GgufFile throws; bad_file where parts are
  /// missing, with their names, and where names, keys and tensors of parts contradict each other.
  explicit GgufModel(const std::filesystem::path& path);

  /// The path it was opened with.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// One, or the parts in order.
  [[nodiscard]] const std::vector<GgufFile>& files() const noexcept { return files_; }
  [[nodiscard]] bool is_split() const noexcept { return files_.size() > 1; }
  /// The first file's.
  [[nodiscard]] std::uint32_t version() const noexcept { return files_.front().version(); }
  /// Whether a model in one file ends without padding.
  [[nodiscard]] bool ends_unpadded() const noexcept {
    return !is_split() && files_.front().ends_unpadded();
  }
  /// The keys of all files in their order; of parts, without those that are about splitting.
  [[nodiscard]] const std::vector<std::pair<std::string, GgufValue>>& values() const noexcept {
    return values_;
  }
  /// File by file. Views stay valid as long as this object.
  [[nodiscard]] const std::vector<GgufTensor>& tensors() const noexcept { return tensors_; }
  /// Null where there is none.
  [[nodiscard]] const GgufTensor* find(std::string_view name) const;
  /// Throws bad_option, listing the names most like it, where there is none.
  [[nodiscard]] const GgufTensor& at(std::string_view name) const;

 private:
  void open_parts(GgufFile first, const std::filesystem::path& path, std::size_t count);
  void merge();

  std::string name_;
  std::vector<GgufFile> files_;
  std::vector<std::pair<std::string, GgufValue>> values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string_view, std::size_t> index_;  // into tensors_
};

}  // namespace nybble::io
