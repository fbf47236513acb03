#include "quantized_checkpoint.h"

#include <fmt/format.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "nybble/error.h"
#include "nybble/io/layer_writer.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;

constexpr const char* kLayout = "nybble";

/// Creates `directory` and gives the file to write in it.
std::filesystem::path prepare(const std::filesystem::path& directory,
                              const std::filesystem::path& source) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    throw Error(ErrorCode::io,
                fmt::format("{}: cannot be created: {}", directory.string(), error.message()));
  }
  const std::filesystem::path target = directory / "model.safetensors";
  if (std::filesystem::equivalent(directory, source, error) ||
      std::filesystem::equivalent(target, source, error) ||
      std::filesystem::equivalent(target, source / "model.safetensors", error)) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--out {}: is the model that is read", directory.string()));
  }
  if (std::filesystem::exists(directory / "model.safetensors.index.json", error)) {
    throw Error(ErrorCode::bad_option,
                fmt::format("--out {}: holds another checkpoint (model.safetensors.index.json)",
                            directory.string()));
  }
  return target;
}

}  // namespace

QuantizedCheckpointWriter::QuantizedCheckpointWriter(const std::filesystem::path& directory,
                                                     const std::filesystem::path& source)
    : directory_(directory), source_(source), writer_(prepare(directory, source)) {}

void QuantizedCheckpointWriter::finish(const nybble::Checkpoint& checkpoint,
                                       QuantizedWeights& quantized) {
  std::map<std::string, std::pair<std::string, nybble::QuantizedLayer*>> layers;
  for (std::size_t block = 0; block < quantized.blocks.size(); ++block) {
    for (std::size_t i = 0; i < kLinearCount; ++i) {
      const std::string name = linear_name(block, static_cast<LinearIndex>(i));
      layers[name + ".weight"] = {name, &quantized.blocks[block][i].value()};
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
