#include "src/io/shard_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/python_json.h"
#include "src/io/strict_json.h"

namespace nybble {

namespace io {

namespace {

using nlohmann::json;

/// A shard must be a file of the folder itself: an index is data from elsewhere.
bool is_plain_file_name(const std::string& name) {
  if (name.empty() || name.find("..") != std::string::npos) return false;
  for (const char c : name) {
    if (c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20) return false;
  }
  return true;
}

std::map<std::string, std::string> read_weight_map(const std::filesystem::path& path) {
  const std::string name = path.string();
  const json index = read_python_json(path);
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object()) {
    throw Error(ErrorCode::bad_file, name + ": weight_map is missing or not an object");
  }
  std::map<std::string, std::string> result;
  for (const auto& [tensor, shard] : weight_map->items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get_ref<const std::string&>())) {
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: tensor {} is in shard {}, expected the name of a file beside "
                              "the index",
                              name, quote(tensor), show_json(shard)));
    }
    result.emplace(tensor, shard.get<std::string>());
  }
  return result;
}

/// Whether a name is that of a part of a model: model-00001-of-00003.safetensors.
bool is_shard_name(const std::string& name) {
  constexpr std::string_view kPattern = "model-00000-of-00000.safetensors";
  return std::equal(name.begin(), name.end(), kPattern.begin(), kPattern.end(),
                    [](char c, char p) { return p == '0' ? c >= '0' && c <= '9' : c == p; });
}

/// Throws bad_file for a part of a model that would be left out: the rest is not the model.
void refuse_unnamed_shards(const std::filesystem::path& folder,
                           const std::set<std::string>& named) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!is_shard_name(name) || named.contains(name)) continue;
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: a part of a model that no index names, expected {} that does",
                            entry.path().string(), (folder / kIndexName).string()));
  }
}

/// The only .safetensors file of a folder: AutoGPTQ's have names such as gptq_model-4bit-128g. None
/// where there are several.
std::vector<std::filesystem::path> lone_file(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") out.push_back(entry.path());
  }
  if (out.size() > 1) out.clear();
  return out;
}

}  // namespace

}  // namespace io

std::string ignored_index(const std::filesystem::path& path) {
  const std::filesystem::path index = path / io::kIndexName;
  const bool both = std::filesystem::is_directory(path) &&
                    std::filesystem::exists(path / io::kSingleName) &&
                    std::filesystem::exists(index);
  return both ? index.string() : std::string();
}

namespace io {

ShardIndex find_shards(const std::filesystem::path& path) {
  ShardIndex out;
  if (!std::filesystem::is_directory(path)) {
    out.files.push_back(path);
  } else if (std::filesystem::exists(path / kSingleName)) {
    out.files.push_back(path / kSingleName);
    if (!std::filesystem::exists(path / kIndexName)) refuse_unnamed_shards(path, {});
  } else if (std::filesystem::exists(path / kIndexName)) {
    out.name = (path / kIndexName).string();
    out.weight_map = read_weight_map(path / kIndexName);
    std::set<std::string> names;
    for (const auto& [tensor, shard] : out.weight_map) names.insert(shard);
    for (const std::string& name : names) out.files.push_back(path / name);
    refuse_unnamed_shards(path, names);
  } else {
    refuse_unnamed_shards(path, {});
    out.files = lone_file(path);
    if (out.files.empty()) {
      throw Error(ErrorCode::io, fmt::format("{}: expected {} or {} in it", path.string(),
                                             kSingleName, kIndexName));
    }
  }
  return out;
}

void ShardIndex::check(const std::vector<std::vector<std::string_view>>& tensors) const {
  std::map<std::string_view, std::size_t> found;
  for (std::size_t i = 0; i < files.size(); ++i) {
    for (const std::string_view tensor : tensors[i]) {
      if (found.emplace(tensor, i).second) continue;
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: tensor {} is in an earlier shard too, expected in one",
                              files[i].string(), quote(tensor)));
    }
  }
  if (name.empty()) return;
  for (const auto& [tensor, shard] : weight_map) {
    const auto at = found.find(tensor);
    if (at != found.end() && files[at->second].filename() == shard) continue;
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: no tensor {}, but {} says it is there",
                            (files[0].parent_path() / shard).string(), quote(tensor), name));
  }
  for (const auto& [tensor, file] : found) {
    if (weight_map.contains(std::string(tensor))) continue;
    throw Error(ErrorCode::bad_file, fmt::format("{}: tensor {} is not in the weight_map of {}",
                                                 files[file].string(), quote(tensor), name));
  }
}

}  // namespace io

}  // namespace nybble
