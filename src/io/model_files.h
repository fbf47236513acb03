#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/io/folder_files.h"
#include "src/io/python_json.h"

namespace nybble::io {

inline constexpr const char* kConfigName = "config.json";
inline constexpr const char* kAwqConfig = "quant_config.json";  // AutoAWQ's before version 0.2
/// Files beside config.json that say how the tensors were quantized.
inline constexpr const char* kSideConfigs[] = {"quantize_config.json", kAwqConfig,
                                               "hf_quant_config.json"};

/// A file beside the tensors of a model: text of its own, or a copy of `source`.
struct ModelFile {
  std::string name;  ///< from the folder on
  std::string text;
  std::filesystem::path source;  ///< empty: `text`
  std::size_t bytes = 0;
};

struct ModelFiles {
  std::vector<ModelFile> files;      ///< sorted by name
  std::vector<FolderFile> kept_out;  ///< what else is in the folder, weights that are read, too
};

/// What a checkpoint made from the model in `folder` needs beside its tensors: config.json with
/// `members`, and copies of what belongs to the model (list_folder_files()). Without members
/// everything stays as it is; with any, files that describe another quantization are left out.
/// Where `folder` is a file: config.json, if there is something to say in it. Throws io; bad_file
/// where config.json is damaged.
ModelFiles plan_model_files(const std::filesystem::path& folder, const JsonMembers& members);

/// A folder's config.json; an empty object where there is none. Throws io, bad_file.
nlohmann::ordered_json read_model_config(const std::filesystem::path& folder);

/// Writes one in `work`, then renames it into `folder`, on the same file system. Throws io.
void write_model_file(const ModelFile& file, const std::filesystem::path& work,
                      const std::filesystem::path& folder);

}  // namespace nybble::io
