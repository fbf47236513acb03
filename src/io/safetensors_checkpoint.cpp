// A safetensors checkpoint as QuantizedCheckpoint reads it.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "src/io/checked.h"
#include "src/io/checkpoint_source.h"
#include "src/io/layout/config_claims.h"
#include "src/io/layout/json_members.h"
#include "src/io/layout/layout.h"
#include "src/io/layout/other_widths.h"
#include "src/io/orientations.h"
#include "src/io/quantization_config.h"

namespace nybble::io {

namespace {

using nlohmann::json;

class CheckpointTensors final : public TensorSource {
 public:
  explicit CheckpointTensors(const std::filesystem::path& path)
      : where_(path.string()), checkpoint_(path), config_(read_quantization_config(path)) {
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
  [[nodiscard]] const std::vector<SafetensorsFile>& shards() const { return checkpoint_.shards(); }

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
    for (const SafetensorsFile& shard : source_.shards()) files.emplace_back(shard.name());
    metadata = source_.metadata();
    claimed_method = text_member(source_.config(), "quant_method");
    found_ = detect(source_, layout, reasons);
    other_widths = io::other_widths(source_);
    describe_other_widths();
    std::set<std::string> taken;
    for (const FoundModule& found : found_) {
      layers.push_back(
          {found.module.name, found.layout->name(), found.module.shape, found.module.tensors});
      taken.insert(found.module.tensors.begin(), found.module.tensors.end());
    }
    for (const std::string& name : source_.names()) {
      if (taken.contains(name)) continue;
      const TensorView& tensor = *source_.find(name);
      tensors.push_back({name, std::string(tensor_type_name(tensor)), tensor.shape});
    }
    TensorShapes shapes;
    for (const auto& tensor : tensors) shapes.emplace(tensor.name, &tensor.shape);
    const std::map<std::string, Orientation> orientations = find_orientations(path, shapes);
    for (auto& tensor : tensors) {
      const auto found = orientations.find(tensor.name);
      if (found != orientations.end()) tensor.orientation = found->second;
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
  [[nodiscard]] std::span<const std::byte> bytes(std::size_t tensor) const override {
    return source_.find(tensors[tensor].name)->bytes;
  }
  [[nodiscard]] TensorView raw(std::size_t tensor, std::vector<float>& /*storage*/) const override {
    return *source_.find(tensors[tensor].name);
  }

 private:
  void describe_other_widths() {
    std::map<std::size_t, std::vector<std::string>> by_width;
    for (const auto& [layer, bits] : other_widths) by_width[bits].push_back(layer);
    for (const auto& [bits, names] : by_width) {
      reasons.push_back(fmt::format("{} bits: {} layers, kept as they are ({}{})", bits,
                                    names.size(), quote(names[0]),
                                    names.size() == 1 ? "" : ", ..."));
    }
  }

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
