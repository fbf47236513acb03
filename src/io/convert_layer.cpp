#include "src/io/convert_layer.h"

#include <fmt/format.h>

#include <algorithm>

#include "nybble/error.h"
#include "nybble/io/compare.h"
#include "nybble/quantize/method.h"
#include "src/io/checked.h"
#include "src/io/gguf_blocks.h"
#include "src/io/gguf_format.h"

namespace nybble::io {

SourceFiles::SourceFiles(const std::filesystem::path& path) {
  if (is_gguf(path)) {
    gguf.emplace(path);
  } else {
    safetensors.emplace(path);
  }
}

std::vector<std::string> SourceFiles::names() const {
  if (safetensors) return safetensors->names();
  std::vector<std::string> out;
  for (const GgufTensor& tensor : gguf->tensors()) out.push_back(tensor.name);
  return out;
}

LayerConverter::LayerConverter(const QuantizedCheckpoint& checkpoint, const SourceFiles& files,
                               const ConvertOptions& options, Executor& executor)
    : checkpoint_(checkpoint),
      files_(files),
      options_(options),
      executor_(executor),
      target_(options.layout == "gguf" ? nullptr : &find_layout(options.layout)) {}

void LayerConverter::refuse(const std::string& layer, const std::string& why) const {
  throw Error(ErrorCode::unsupported,
              fmt::format("layer {}: layout {} {}", quote(layer), options_.layout, why));
}

StoredLayer LayerConverter::layer(const Entry& entry) const {
  StoredLayer stored = checkpoint_.read(entry.name);
  if (options_.format.empty()) return stored;
  const std::size_t rows = stored.weight.rows;
  const std::size_t cols = stored.weight.cols;
  const std::vector<float> weight =
      effective_weight({std::move(stored.weight), std::move(stored.transforms), {}, 0}, executor_);
  QuantizedLayer quantized =
      quantize_layer({weight.data(), rows, cols}, parse_format(options_.format),
                     Method(options_.method), nullptr, executor_, {entry.name});
  return {entry.name, entry.shape, std::move(quantized.weight), std::move(quantized.transforms)};
}

StoredLayer LayerConverter::read_back(const StoredLayer& layer, const WrittenLayer& written) const {
  nlohmann::ordered_json config = target_->config(layer.weight.format, {});
  if (config.is_object()) target_->amend(config, layer);
  const MemorySource source(written, config.is_object() ? nlohmann::json::parse(config.dump())
                                                        : nlohmann::json::object());
  const std::vector<Module> modules = target_->find(source);
  if (modules.size() != 1 || modules[0].name != layer.name) {
    refuse(layer.name, "would not find it again by its name and tensors");
  }
  return target_->read(source, modules[0]);
}

StoredLayer LayerConverter::through_gguf(const StoredLayer& layer) const {
  const std::string where = fmt::format("layer {}", quote(layer.name));
  const GgufType type = gguf_type_for(layer.weight.format, layer.shape);
  const TensorScale& tensor = layer.weight.tensor;
  const std::vector<std::byte> blocks = write_blocks(layer.weight, type, where);
  StoredLayer out{
      layer.name, layer.shape, read_blocks({layer.name, type, layer.shape, blocks}, where), {}};
  out.weight.tensor.scale = tensor.scale;
  if (tensor.scale == 1 && tensor.divisor != 0) out.weight.tensor.divisor = 1;
  if (layer.input_scale) out.input_scale = TensorScale{layer.input_scale->scale};
  return out;
}

void LayerConverter::prove(const Entry& entry, const StoredLayer& layer,
                           const WrittenLayer* written) const {
  const StoredLayer back = written == nullptr ? through_gguf(layer) : read_back(layer, *written);
  if (!same_weights(back, layer, executor_)) {
    refuse(entry.name,
           fmt::format("gives it back changed (format '{}', found '{}')",
                       layer.weight.format.info().spec, back.weight.format.info().spec));
  }
  if (options_.drop_details || !options_.format.empty()) return;
  expect_source_again(entry, layer, back);
}

void LayerConverter::expect_source_again(const Entry& entry, const StoredLayer& layer,
                                         const StoredLayer& back) const {
  if (files_.gguf) {
    expect_same_blocks(entry, layer, back);
  } else {
    expect_same_tensors(entry, layer, back);
  }
}

void LayerConverter::expect_same_blocks(const Entry& entry, const StoredLayer& layer,
                                        const StoredLayer& back) const {
  const GgufTensor& tensor = files_.gguf->at(entry.tensors.front());
  const std::vector<std::byte> blocks =
      write_blocks(back.weight, tensor.type, fmt::format("layer {}", quote(entry.name)));
  const auto has_scale = [](const StoredLayer& of) {
    return of.weight.tensor.scale != 1 || of.weight.tensor.divisor != 0;
  };
  if (!std::equal(blocks.begin(), blocks.end(), tensor.bytes.begin(), tensor.bytes.end()) ||
      has_scale(back) != has_scale(layer)) {
    refuse(entry.name, fmt::format("cannot hold all that tensor {} of {} says ({})",
                                   quote(tensor.name), gguf_type_name(tensor.type), kDropDetails));
  }
}

void LayerConverter::expect_same_tensors(const Entry& entry, const StoredLayer& layer,
                                         const StoredLayer& back) const {
  const WrittenLayer again = find_layout(entry.layout).write(back);
  const auto lost = [&](const std::string& what) {
    refuse(entry.name, fmt::format("cannot hold what layout {} says in {}: it would not come back "
                                   "as it is ({})",
                                   entry.layout, what, kDropDetails));
  };
  for (const OwnedTensor& tensor : again.tensors) {
    const TensorView* before = files_.safetensors->find(tensor.name);
    if (before == nullptr || before->type != tensor.type || before->shape != tensor.shape ||
        !std::equal(before->bytes.begin(), before->bytes.end(), tensor.bytes.begin(),
                    tensor.bytes.end())) {
      lost("tensor " + quote(tensor.name));
    }
  }
  for (const std::string& name : entry.tensors) {
    if (std::none_of(again.tensors.begin(), again.tensors.end(),
                     [&](const OwnedTensor& tensor) { return tensor.name == name; })) {
      lost("tensor " + quote(name));
    }
  }
  for (const auto& [key, value] : again.metadata) {
    const auto before = checkpoint_.metadata().find(key);
    if (before == checkpoint_.metadata().end() || before->second != value) {
      lost("metadata " + quote(key));
    }
  }
  for (const auto& [key, value] : own_metadata(entry, layer)) {
    if (!again.metadata.contains(key)) lost("metadata " + quote(key));
  }
}

std::map<std::string, std::string> LayerConverter::own_metadata(const Entry& entry,
                                                                const StoredLayer& layer) const {
  if (files_.gguf || !options_.format.empty()) return {};
  return find_layout(entry.layout).write(layer).metadata;
}

}  // namespace nybble::io
