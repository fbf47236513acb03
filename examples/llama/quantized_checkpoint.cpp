#include "quantized_checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/io/layer_writer.h"
#include "nybble/io/quantized_checkpoint.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;
using nybble::QuantizedMatrix;

constexpr const char* kLayout = "nybble";

/// One layer, which must have the shape that config.json says.
nybble::QuantizedLayer read_layer(const nybble::QuantizedCheckpoint& checkpoint,
                                  const std::string& directory, const std::string& name,
                                  std::size_t rows, std::size_t cols) {
  const auto& entries = checkpoint.layers();
  const auto entry = std::find_if(entries.begin(), entries.end(),
                                  [&](const auto& each) { return each.name == name; });
  if (entry == entries.end()) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: no quantized layer {}", directory, name));
  }
  nybble::StoredLayer layer = checkpoint.read(name);
  // Early checkpoints do not store shapes: padding was read as columns.
  const std::vector<std::string>& tensors = entry->tensors;
  const bool early =
      std::find(tensors.begin(), tensors.end(), name + ".weight.shape") == tensors.end();
  if (early && layer.weight.rows == rows &&
      QuantizedMatrix(layer.weight.format, rows, cols).padded_cols == layer.weight.padded_cols) {
    layer.weight.cols = cols;
    layer.shape = {rows, cols};
  }
  if (layer.shape != std::vector{rows, cols}) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("{}: {} has shape [{}], expected [{}, {}] by config.json", directory,
                            name, fmt::join(layer.shape, ", "), rows, cols));
  }
  return {std::move(layer.weight), std::move(layer.transforms), {}, 0};
}

/// Creates `directory` and gives the file to write in it.
std::filesystem::path prepare(const std::filesystem::path& directory,
                              const std::filesystem::path& source) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    throw Error(ErrorCode::io,
                fmt::format("{}: cannot be created: {}", directory.string(), error.message()));
  }
  if (std::filesystem::equivalent(directory, source, error)) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--out {}: is the model that is read", directory.string()));
  }
  if (std::filesystem::exists(directory / "model.safetensors.index.json", error)) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--out {}: holds another checkpoint (model.safetensors.index.json)",
                            directory.string()));
  }
  return directory / "model.safetensors";
}

}  // namespace

bool is_quantized(const nybble::Checkpoint& checkpoint) {
  const std::vector<nybble::SafetensorsFile>& shards = checkpoint.shards();
  return std::any_of(shards.begin(), shards.end(), [](const nybble::SafetensorsFile& shard) {
    return shard.metadata().contains("nybble.format");
  });
}

QuantizedWeights read_quantized(const std::filesystem::path& directory, const Config& config) {
  const nybble::QuantizedCheckpoint checkpoint(directory);
  const std::string name = directory.string();
  // In a file, a format that is not understood is the file's fault, not an option's.
  const auto parsed = [&](const char* key, const auto& parse) {
    const auto found = checkpoint.metadata().find(key);
    if (found == checkpoint.metadata().end()) {
      throw Error(ErrorCode::bad_file, fmt::format("{}: no {} in the metadata", name, key));
    }
    try {
      return parse(found->second);
    } catch (const Error& error) {
      throw Error(ErrorCode::bad_file, fmt::format("{}: {}: {}", name, key, error.what()));
    }
  };
  QuantizedWeights out{parsed("nybble.format", nybble::parse_format),
                       parsed("nybble.method", [](const std::string& method) { return method; }),
                       parsed("nybble.path", nybble::parse_path),
                       std::nullopt,
                       {},
                       0};
  if (checkpoint.metadata().contains("nybble.activations")) {
    out.activations = parsed("nybble.activations", nybble::parse_format);
  }
  for (std::size_t block = 0; block < config.layers; ++block) {
    std::vector<nybble::QuantizedLayer>& layers = out.blocks.emplace_back();
    for (std::size_t i = 0; i < kLinearCount; ++i) {
      const auto index = static_cast<LinearIndex>(i);
      const auto [rows, cols] = linear_shape(config, index);
      layers.push_back(read_layer(checkpoint, name, linear_name(block, index), rows, cols));
    }
  }
  return out;
}

QuantizedCheckpointWriter::QuantizedCheckpointWriter(const std::filesystem::path& directory,
                                                     const std::filesystem::path& source)
    : directory_(directory), source_(source), writer_(prepare(directory, source)) {}

void QuantizedCheckpointWriter::finish(const nybble::Checkpoint& checkpoint,
                                       QuantizedWeights& quantized) {
  std::map<std::string, std::pair<std::string, nybble::QuantizedLayer*>> layers;
  for (std::size_t block = 0; block < quantized.blocks.size(); ++block) {
    for (std::size_t i = 0; i < kLinearCount; ++i) {
      const std::string name = linear_name(block, static_cast<LinearIndex>(i));
      layers[name + ".weight"] = {name, &quantized.blocks[block][i]};
    }
  }
  for (const nybble::SafetensorsFile& shard : checkpoint.shards()) {
    for (const auto& [key, value] : shard.metadata()) writer_.set_metadata(key, value);
  }
  writer_.set_metadata("nybble.format", quantized.format.info().spec);
  writer_.set_metadata("nybble.method", quantized.method);
  writer_.set_metadata("nybble.path", nybble::path_name(quantized.path));
  if (quantized.activations) {
    writer_.set_metadata("nybble.activations", quantized.activations->info().spec);
  }
  for (const nybble::SafetensorsFile& shard : checkpoint.shards()) {
    for (const nybble::TensorView& tensor : shard.tensors()) {
      const auto found = layers.find(tensor.name);
      if (found == layers.end()) {
        writer_.add(tensor.name, tensor.type, tensor.shape, tensor.bytes);
        continue;
      }
      auto& [name, layer] = found->second;
      const std::vector<std::size_t> shape = {layer->weight.rows, layer->weight.cols};
      nybble::add_layer(
          writer_, {name, shape, std::move(layer->weight), std::move(layer->transforms)}, kLayout);
    }
  }
  const nybble::MappedFile config(source_ / "config.json");
  nybble::AtomicFile copy(directory_ / "config.json");
  copy.write(config.bytes());
  copy.commit();
  writer_.finish();
}

}  // namespace llama
