#include "src/io/folder_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>

#include "nybble/error.h"
#include "src/io/model_files.h"
#include "src/io/shard_index.h"

namespace nybble::io {

namespace {

namespace fs = std::filesystem;

/// Arrays, too: what calibrates a model is no part of it.
constexpr std::string_view kWeights[] = {
    ".safetensors", ".bin",     ".pt",      ".pth",       ".ckpt",     ".gguf",
    ".ggml",        ".onnx",    ".ort",     ".onnx_data", ".h5",       ".hdf5",
    ".keras",       ".msgpack", ".tflite",  ".pb",        ".npy",      ".npz",
    ".pkl",         ".pickle",  ".ot",      ".params",    ".pdparams", ".pdmodel",
    ".nemo",        ".engine",  ".mlmodel", ".distcp",    ".llamafile"};
/// Beside one model's weights, of any of these: which tensor is in which of its files.
constexpr std::string_view kWeightIndex = ".index.json";
constexpr std::string_view kWeightFolders[] = {".mlpackage", ".mlmodelc"};
constexpr std::string_view kUnfinished[] = {".tmp", ".lock", ".part", ".incomplete"};
constexpr std::string_view kCaches[] = {"__pycache__", "cache"};
constexpr std::string_view kLogs[] = {"logs", "runs", "wandb"};
/// What quantizing and converting make while they write into a folder.
constexpr std::string_view kOwnWork = ".nybble-";

constexpr const char* kIsWeights = "weights";

template <std::size_t count>
bool ends_in_one_of(std::string_view name, const std::string_view (&endings)[count]) {
  return std::any_of(std::begin(endings), std::end(endings),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

template <std::size_t count>
bool is_one_of(std::string_view name, const std::string_view (&names)[count]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

std::string lower_case(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

/// Why a file of that name does not go along; empty: it does.
std::string why_not_file(const std::string& file_name) {
  if (file_name.starts_with('.')) return "hidden";
  const std::string name = lower_case(file_name);
  if (ends_in_one_of(name, kUnfinished) || name.find(".tmp-") != std::string::npos) {
    return "unfinished";
  }
  if (name.starts_with("tokenizer")) return {};  // also tokenizer.bin
  if (ends_in_one_of(name, kWeights) || name.ends_with(".onnx.data")) return kIsWeights;
  if (name.ends_with(kWeightIndex)) return "an index of weights";
  if (name.ends_with(".log") || name.find(".tfevents.") != std::string::npos) return "a log";
  if (name.ends_with(".pyc")) return "a cache";
  return {};
}

std::string why_not_folder(const fs::path& folder) {
  const std::string name = lower_case(folder.filename().string());
  if (name.starts_with('.')) return "hidden";
  if (is_one_of(name, kCaches)) return "a cache";
  if (is_one_of(name, kLogs)) return "logs";
  if (ends_in_one_of(name, kWeightFolders)) return kIsWeights;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string inside = entry.path().filename().string();
    if (inside.starts_with(kOwnWork)) return "being written";
    if (why_not_file(inside) == kIsWeights) return "a model of its own";
  }
  return {};
}

class FolderWalk {
 public:
  void walk(const fs::path& folder, const std::string& prefix) {
    seen_.insert(fs::canonical(folder));
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      const std::string name = prefix + entry.path().filename().string();
      if (entry.is_directory()) {
        add_folder(entry.path(), name + "/");
      } else if (name != kConfigName && name != kIndexName) {
        add_file(entry, name);
      }
    }
  }
  std::vector<FolderFile> take() {
    std::sort(files_.begin(), files_.end(),
              [](const FolderFile& a, const FolderFile& b) { return a.name < b.name; });
    return std::move(files_);
  }

 private:
  void add_folder(const fs::path& path, const std::string& name) {
    std::string why = why_not_folder(path);
    if (why.empty() && seen_.contains(fs::canonical(path))) why = "a link to a folder seen already";
    if (why.empty()) {
      walk(path, name);
    } else {
      files_.push_back({name, path, 0, std::move(why)});
    }
  }

  void add_file(const fs::directory_entry& entry, const std::string& name) {
    std::string why = why_not_file(entry.path().filename().string());
    const bool regular = entry.is_regular_file();
    if (why.empty() && !regular) {
      if (!entry.exists()) {
        throw Error(ErrorCode::io, fmt::format("{}: is a link to nothing, expected a file of the "
                                               "model",
                                               entry.path().string()));
      }
      why = "no regular file";
    }
    files_.push_back({name, entry.path(), regular ? entry.file_size() : 0, std::move(why)});
  }

  std::vector<FolderFile> files_;
  std::set<fs::path> seen_;  ///< so that links do not lead in circles
};

}  // namespace

std::vector<FolderFile> list_folder_files(const fs::path& folder) {
  FolderWalk walk;
  walk.walk(folder, "");
  return walk.take();
}

}  // namespace nybble::io
