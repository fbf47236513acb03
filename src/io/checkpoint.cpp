#include <fmt/format.h>

#include "nybble/error.h"
#include "nybble/io/safetensors.h"
#include "src/io/checked.h"
#include "src/io/shard_index.h"

namespace nybble {

Checkpoint::Checkpoint(const std::filesystem::path& path) : name_(path.string()) {
  const io::ShardIndex index = io::find_shards(path);
  std::vector<std::vector<std::string_view>> names;
  for (const std::filesystem::path& file : index.files) shards_.emplace_back(file);
  for (const SafetensorsFile& shard : shards_) {
    names.emplace_back();
    for (const TensorView& tensor : shard.tensors()) {
      names.back().push_back(tensor.name);
      index_.emplace(tensor.name, &tensor);
    }
  }
  index.check(names);
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
