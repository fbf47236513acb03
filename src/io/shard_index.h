#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace nybble::io {

inline constexpr const char* kSingleName = "model.safetensors";
inline constexpr const char* kIndexName = "model.safetensors.index.json";

/// The files of a checkpoint: a .safetensors file, or a folder with kIndexName or kSingleName (the
/// file where there are both, as transformers does), or with one .safetensors file of another name.
struct ShardIndex {
  std::vector<std::filesystem::path> files;       ///< sorted by name
  std::map<std::string, std::string> weight_map;  ///< tensor to file name; empty without an index
  std::string name;                               ///< of the index, for errors

  /// Throws bad_file unless the shards hold exactly what weight_map says; `tensors` are those of
  /// each of `files`.
  void check(const std::vector<std::vector<std::string_view>>& tensors) const;
};

/// Throws io; bad_file where the index is damaged, a shard's name leaves the folder, or a shard is
/// there that would not be read.
ShardIndex find_shards(const std::filesystem::path& path);

}  // namespace nybble::io
