#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace nybble::io {

/// A file of a model's folder, or a folder in it of which nothing is copied.
struct FolderFile {
  std::string name;  ///< from the model's folder on, "tokenizer/vocab.json"; a folder's ends in '/'
  std::filesystem::path path;
  std::size_t bytes = 0;  ///< of a file
  std::string kept_out;   ///< why it does not go along with the model; empty: it does
};

/// Everything in a model's folder but config.json and the index of its shards, sorted by name.
/// Whatever is not known as something else belongs to the model: code, vocabularies, templates,
/// licences, folders of them. Kept out are weights in any form and what describes their files,
/// folders that hold weights (models of their own), logs, caches and hidden files. Links are
/// followed. Throws io, also for a link to nothing that would have to be copied.
std::vector<FolderFile> list_folder_files(const std::filesystem::path& folder);

}  // namespace nybble::io
