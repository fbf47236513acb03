// A safetensors checkpoint as QuantizedCheckpoint reads it.

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "nybble/error.h"
#include "src/io/checkpoint_source.h"
#include "src/io/layout/config_claims.h"
#include "src/io/layout/json_members.h"
#include "src/io/layout/layout.h"
#include "src/io/model_files.h"
#include "src/io/strict_json.h"

namespace nybble::io {

namespace {

using nlohmann::json;

constexpr std::size_t kConfigDepth = 32;

/// quantization_config of a model's config.json, or what compressed-tensors once called it.
json read_main_config(const std::filesystem::path& path) {
  const json config = read_strict_json(path, kConfigDepth);
  for (const char* key : {"quantization_config", "compression_config"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    if (!found->is_object()) {
      throw Error(ErrorCode::bad_file, fmt::format("{}: {} is {}, expected an object",
                                                   path.string(), key, found->type_name()));
    }
    return *found;
  }
  return json::object();
}

/// What a file beside config.json says, in the words of that.
json read_side_config(const std::filesystem::path& path) {
  json parsed = read_strict_json(path, kConfigDepth);
  if (path.filename() == kAwqConfig) {
    parsed["quant_method"] = "awq";
    return parsed;
  }
  const auto inner = parsed.find("quantization");  // ModelOpt's
  if (inner == parsed.end() || !inner->is_object()) return parsed;
  json result = *inner;
  result["quant_method"] = "modelopt";
  return result;
}

/// What says how the tensors beside it were quantized, of the files that tools write it to.
json read_quantization_config(const std::filesystem::path& folder) {
  json config = json::object();
  std::string name;
  const std::filesystem::path model = folder / "config.json";
  if (std::filesystem::exists(model)) {
    config = read_main_config(model);
    name = model.string();
  }
  for (const char* side : kSideConfigs) {
    const std::filesystem::path path = folder / side;
    if (!std::filesystem::exists(path)) continue;
    json said = read_side_config(path);
    if (!said.is_object()) continue;
    config = config.empty() ? std::move(said) : merge_configs(config, name, said, path.string());
    name = path.string();
  }
  return config;
}

class CheckpointTensors final : public TensorSource {
 public:
  explicit CheckpointTensors(const std::filesystem::path& path)
      : where_(path.string()),
        checkpoint_(path),
        config_(read_quantization_config(
            std::filesystem::is_directory(path) ? path : path.parent_path())) {
    for (const SafetensorsFile& shard : checkpoint_.shards()) {
      metadata_.insert(shard.metadata().begin(), shard.metadata().end());
    }
  }
  [[nodiscard]] const TensorView* find(std::string_view name) const override {
    return checkpoint_.find(name);
  }
  [[nodiscard]] std::vector<std::string> names() const override { return checkpoint_.names(); }
  [[nodiscard]] const std::string& where() const override { return where_; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const override {
    return metadata_;
  }
  [[nodiscard]] const json& config() const override { return config_; }

 private:
  std::string where_;
  Checkpoint checkpoint_;
  json config_;
  std::map<std::string, std::string> metadata_;
};

class SafetensorsSource final : public QuantizedCheckpoint::Source {
 public:
  SafetensorsSource(const std::filesystem::path& path, const std::string& layout)
      : source_(path), forced_(!layout.empty()) {
    metadata = source_.metadata();
    claimed_method = text_member(source_.config(), "quant_method");
    found_ = detect(source_, layout, reasons);
    std::set<std::string> taken;
    for (const FoundModule& found : found_) {
      layers.push_back(
          {found.module.name, found.layout->name(), found.module.shape, found.module.tensors});
      taken.insert(found.module.tensors.begin(), found.module.tensors.end());
    }
    for (const std::string& name : source_.names()) {
      if (taken.contains(name)) continue;
      const TensorView& tensor = *source_.find(name);
      tensors.push_back({name, std::string(tensor_type_name(tensor.type)), tensor.shape});
    }
  }
  [[nodiscard]] StoredLayer read(std::size_t layer) const override {
    StoredLayer out = found_[layer].layout->read(source_, found_[layer].module);
    if (!forced_) check_config_claims(source_, out);
    return out;
  }
  [[nodiscard]] std::vector<float> read_f32(std::size_t tensor) const override {
    return to_f32(*source_.find(tensors[tensor].name));
  }
  [[nodiscard]] TensorView raw(std::size_t tensor, std::vector<float>& /*storage*/) const override {
    return *source_.find(tensors[tensor].name);
  }

 private:
  CheckpointTensors source_;
  bool forced_;
  std::vector<FoundModule> found_;
};

}  // namespace

std::unique_ptr<const QuantizedCheckpoint::Source> open_safetensors_checkpoint(
    const std::filesystem::path& path, const std::string& layout) {
  return std::make_unique<SafetensorsSource>(path, layout);
}

}  // namespace nybble::io
