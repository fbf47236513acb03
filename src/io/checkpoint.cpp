#include <fmt/format.h>

#include <set>

#include "nybble/error.h"
#include "nybble/io/safetensors.h"
#include "src/io/checked.h"
#include "src/io/strict_json.h"

namespace nybble {
namespace {

using nlohmann::json;

constexpr std::size_t kIndexDepth = 8;  // weight_map needs 2; the free metadata may nest
constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";

/// A shard must be a file of the folder itself: an index is data from elsewhere.
bool is_plain_file_name(const std::string& name) {
  if (name.empty() || name.find("..") != std::string::npos) return false;
  for (const char c : name) {
    if (c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20) return false;
  }
  return true;
}

/// weight_map: tensor name to shard name.
std::map<std::string, std::string> read_weight_map(const std::filesystem::path& path) {
  const std::string name = path.string();
  const MappedFile file(path);
  const json index = io::parse_strict_json(file.bytes(), name, kIndexDepth);
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
                              name, io::quote(tensor), io::quote(shard.dump())));
    }
    result.emplace(tensor, shard.get<std::string>());
  }
  return result;
}

}  // namespace

Checkpoint::Checkpoint(const std::filesystem::path& path) : name_(path.string()) {
  if (!std::filesystem::is_directory(path)) {
    add_shard(SafetensorsFile(path));
  } else if (std::filesystem::exists(path / kIndexName)) {
    open_index(path / kIndexName);
  } else if (std::filesystem::exists(path / kSingleName)) {
    add_shard(SafetensorsFile(path / kSingleName));
  } else {
    throw Error(ErrorCode::io,
                fmt::format("{}: expected {} or {} in it", name_, kSingleName, kIndexName));
  }
}

void Checkpoint::open_index(const std::filesystem::path& index_path) {
  const auto weight_map = read_weight_map(index_path);
  std::map<std::string, const SafetensorsFile*> opened;
  std::set<std::string> shard_names;
  for (const auto& [tensor, shard] : weight_map) shard_names.insert(shard);
  shards_.reserve(shard_names.size());
  for (const std::string& shard : shard_names) {
    add_shard(SafetensorsFile(index_path.parent_path() / shard));
    opened.emplace(shard, &shards_.back());
  }
  for (const auto& [tensor, shard] : weight_map) {
    if (opened.at(shard)->find(tensor) == nullptr) {
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: no tensor {}, but {} says it is there", opened.at(shard)->name(),
                              io::quote(tensor), index_path.string()));
    }
  }
  for (const SafetensorsFile& shard : shards_) {
    for (const TensorView& tensor : shard.tensors()) {
      if (!weight_map.contains(tensor.name)) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("{}: tensor {} is not in the weight_map of {}", shard.name(),
                                io::quote(tensor.name), index_path.string()));
      }
    }
  }
}

void Checkpoint::add_shard(SafetensorsFile shard) {
  for (const TensorView& tensor : shard.tensors()) {
    if (!index_.emplace(tensor.name, &tensor).second) {
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: tensor {} is in an earlier shard too, expected in one",
                              shard.name(), io::quote(tensor.name)));
    }
  }
  shards_.push_back(std::move(shard));
}

const TensorView* Checkpoint::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : found->second;
}

const TensorView& Checkpoint::at(std::string_view name) const {
  if (const TensorView* const tensor = find(name)) return *tensor;
  std::vector<std::string_view> known;
  for (const auto& [key, tensor] : index_) known.push_back(key);
  throw Error(ErrorCode::bad_option, fmt::format("{}: no tensor {}, {}", name_, io::quote(name),
                                                 io::name_hint(name, known)));
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> result;
  for (const SafetensorsFile& shard : shards_) {
    for (const TensorView& tensor : shard.tensors()) result.push_back(tensor.name);
  }
  return result;
}

}  // namespace nybble
