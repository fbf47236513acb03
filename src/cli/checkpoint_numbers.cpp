#include "checkpoint_numbers.h"

#include <fmt/format.h>

#include <filesystem>
#include <functional>
#include <numeric>

#include "nybble/error.h"

namespace nybble::cli {

namespace {

std::size_t product(const std::vector<std::size_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
}

std::vector<std::string> names_of(const Transforms& transforms) {
  std::vector<std::string> out;
  if (!transforms.channel_scale.scale.empty()) out.emplace_back("channel scale");
  if (!transforms.permutation.source.empty()) out.emplace_back("permutation");
  if (transforms.hadamard.block != 0) {
    out.push_back(fmt::format("hadamard of {}", transforms.hadamard.block));
  }
  if (transforms.low_rank.rank != 0) {
    out.push_back(fmt::format("low rank {}", transforms.low_rank.rank));
  }
  if (!transforms.sparse.value.empty()) {
    out.push_back(fmt::format("{} sparse outliers", transforms.sparse.value.size()));
  }
  return out;
}

/// What a tensor's stored type calls normal; f32 for GGUF's blocks.
float smallest_normal_of(const std::string& type) {
  return smallest_normal(type == "F16" ? ScaleType::f16 : ScaleType::f32);
}

}  // namespace

void add_checkpoint_arguments(CLI::App& command, CheckpointArguments& options) {
  command
      .add_option("path", options.path,
                  "A .safetensors or .gguf file, or the folder of a sharded checkpoint")
      ->required();
  command.add_option("--layout", options.layout,
                     "Read all layers in this layout (default: found from names, metadata, data)");
}

LayerNumbers measure(const StoredLayer& layer, const QuantizedCheckpoint::LayerEntry& entry,
                     Executor& executor) {
  const FormatInfo& info = layer.weight.format.info();
  return {entry,
          info,
          layer.weight.bits_per_element(),
          info.tensor_scale ? std::optional(layer.weight.tensor.scale) : std::nullopt,
          names_of(layer.transforms),
          quantized_statistics(layer.weight, executor)};
}

TensorNumbers measure(const QuantizedCheckpoint& checkpoint,
                      const QuantizedCheckpoint::TensorEntry& entry, Executor& executor) {
  TensorNumbers out{entry, std::nullopt};
  try {
    const std::vector<float> values = checkpoint.read_f32(entry.name);
    out.values = value_statistics(values, smallest_normal_of(entry.type), executor);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;  // else integers
  }
  return out;
}

void CheckpointTotals::add(const LayerNumbers& layer) {
  ++layers;
  const std::size_t elements = layer.statistics.elements();
  weights += elements;
  layer_bits += layer.bits_per_weight * static_cast<double>(elements);
  nan += layer.statistics.scales.nan;
  inf += layer.statistics.scales.inf;
}

void CheckpointTotals::add(const TensorNumbers& tensor) {
  ++tensors;
  values += product(tensor.entry.shape);
  if (!tensor.values) return;
  nan += tensor.values->nan;
  inf += tensor.values->inf;
}

double CheckpointTotals::bits_per_weight() const {
  return weights == 0 ? 0 : layer_bits / static_cast<double>(weights);
}

std::size_t file_bytes(const QuantizedCheckpoint& checkpoint) {
  std::size_t bytes = 0;
  for (const std::filesystem::path& file : checkpoint.files()) {
    bytes += static_cast<std::size_t>(std::filesystem::file_size(file));
  }
  return bytes;
}

Json json_of(const ValueStatistics& values) {
  Json octaves = Json::object();
  for (const auto& [octave, count] : values.octaves) octaves[fmt::format("{}", octave)] = count;
  const bool any = values.finite() != 0;
  return {{"count", values.count},
          {"nan", values.nan},
          {"inf", values.inf},
          {"zero", values.zero},
          {"negative", values.negative},
          {"denormal", values.denormal},
          {"min", any ? Json(values.smallest) : Json()},
          {"max", any ? Json(values.largest) : Json()},
          {"octaves", std::move(octaves)}};
}

Json json_of(const LayerNumbers& layer) {
  const bool zero_points = layer.format.layout == ScaleLayout::zero_point;
  return {{"name", layer.entry.name},
          {"layout", layer.entry.layout},
          {"format", layer.format.spec},
          {"shape", layer.entry.shape},
          {"bits_per_weight", layer.bits_per_weight},
          {"tensor_scale", layer.tensor_scale ? Json(*layer.tensor_scale) : Json()},
          {"transforms", layer.transforms},
          {"levels", layer.format.levels},
          {"codes", layer.statistics.codes},
          {"end_codes", layer.statistics.end_codes},
          {"scales", json_of(layer.statistics.scales)},
          {"zero_points", zero_points ? Json(layer.statistics.zero_points) : Json()}};
}

Json json_of(const TensorNumbers& tensor) {
  return {{"name", tensor.entry.name},
          {"type", tensor.entry.type},
          {"shape", tensor.entry.shape},
          {"values", tensor.values ? json_of(*tensor.values) : Json()}};
}

Json json_of(const CheckpointTotals& totals) {
  return {{"layers", totals.layers},
          {"weights", totals.weights},
          {"bits_per_weight", totals.layers == 0 ? Json() : Json(totals.bits_per_weight())},
          {"tensors", totals.tensors},
          {"values", totals.values},
          {"nan", totals.nan},
          {"inf", totals.inf},
          {"file_bytes", totals.file_bytes}};
}

}  // namespace nybble::cli
