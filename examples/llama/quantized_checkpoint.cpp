#include "quantized_checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "nybble/error.h"
#include "nybble/format/registry.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;
using nybble::QuantizedMatrix;
using nybble::TensorType;

constexpr const char* kVersion = "1";

const std::string* find_metadata(const nybble::Checkpoint& checkpoint, const std::string& key) {
  for (const nybble::SafetensorsFile& shard : checkpoint.shards()) {
    const auto found = shard.metadata().find(key);
    if (found != shard.metadata().end()) return &found->second;
  }
  return nullptr;
}

/// The tensors of one layer.
class LayerReader {
 public:
  LayerReader(const nybble::Checkpoint& checkpoint, std::string directory, std::string layer)
      : checkpoint_(checkpoint), directory_(std::move(directory)), layer_(std::move(layer)) {}

  nybble::QuantizedLayer read(const nybble::AnyFormat& format, std::size_t rows,
                              std::size_t cols) const {
    QuantizedMatrix matrix(format, rows, cols);
    const bool nested = format.info().double_quantized;
    copy("codes", TensorType::u8, {rows, matrix.padded_cols / 2}, matrix.codes);
    copy("scales", scales_type(format.info()), scales_shape(matrix), matrix.scales);
    if (!matrix.zero_points.empty()) {
      copy("zero_points", TensorType::u8, {rows, matrix.groups}, matrix.zero_points);
      const bool four_bits = std::all_of(matrix.zero_points.begin(), matrix.zero_points.end(),
                                         [](std::uint8_t zero) { return zero < 16; });
      expect(four_bits, "zero_points", "numbers from 0 to 15");
    }
    if (nested) {
      copy("nested_scales", TensorType::f32, {matrix.nested_scales.size()}, matrix.nested_scales);
      expect_finite("nested_scales", matrix.nested_scales);
      std::vector<float> offset(1);
      copy("nested_offset", TensorType::f32, {1}, offset);
      expect_finite("nested_offset", offset);
      matrix.nested_offset = offset[0];
    }
    if (format.info().tensor_scale) {
      std::vector<float> scale(2);
      copy("tensor_scale", TensorType::f32, {2}, scale);
      expect_finite("tensor_scale", scale);
      matrix.tensor = {scale[0], scale[1]};
    }
    matrix.check();
    nybble::QuantizedLayer layer{std::move(matrix), read_transforms(cols), {}, 0};
    try {
      layer.transforms.check(rows, cols);
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{}: {}: {}", directory_, layer_, error.what()));
    }
    return layer;
  }

  static TensorType scales_type(const nybble::FormatInfo& info) {
    if (info.double_quantized) return TensorType::u8;
    switch (info.scale_type) {
      case nybble::ScaleType::f32:
        return TensorType::f32;
      case nybble::ScaleType::f16:
        return TensorType::f16;
      case nybble::ScaleType::bf16:
        return TensorType::bf16;
      case nybble::ScaleType::e8m0:
        return TensorType::f8_e8m0;
      case nybble::ScaleType::e4m3:
        return TensorType::f8_e4m3;
      case nybble::ScaleType::e5m2:
        return TensorType::f8_e5m2;
      case nybble::ScaleType::e4m3x480:
        break;
    }
    return TensorType::u8;
  }

  static std::vector<std::size_t> scales_shape(const QuantizedMatrix& matrix) {
    if (matrix.format.info().layout == nybble::ScaleLayout::sign_split) {
      return {matrix.rows, matrix.groups, 2};
    }
    return {matrix.rows, matrix.groups};
  }

 private:
  nybble::Transforms read_transforms(std::size_t cols) const {
    nybble::Transforms transforms;
    if (has("channel_scale")) {
      std::vector<float>& scale = transforms.channel_scale.scale;
      scale.resize(cols);
      copy("channel_scale", TensorType::f32, {cols}, scale);
      expect_finite("channel_scale", scale);
    }
    if (has("permutation")) {
      transforms.permutation.source.resize(cols);
      copy("permutation", TensorType::u32, {cols}, transforms.permutation.source);
    }
    const std::string* block = find_metadata(checkpoint_, layer_ + ".hadamard_block");
    if (has("hadamard_signs") != (block != nullptr)) {
      throw wrong("hadamard_signs", "signs and the metadata's hadamard_block, or neither");
    }
    if (block == nullptr) return transforms;
    const char* end = block->data() + block->size();
    const auto [stop, error] = std::from_chars(block->data(), end, transforms.hadamard.block);
    if (error != std::errc() || stop != end || transforms.hadamard.block == 0) {
      throw wrong("hadamard_block", fmt::format("\"{}\", expected a positive number", *block));
    }
    std::vector<float>& signs = transforms.hadamard.signs;
    signs.resize(cols);
    copy("hadamard_signs", TensorType::f32, {cols}, signs);
    expect(std::all_of(signs.begin(), signs.end(), [](float s) { return s == 1.0F || s == -1.0F; }),
           "hadamard_signs", "1 and -1");
    return transforms;
  }

  [[nodiscard]] bool has(const char* part) const {
    return checkpoint_.find(fmt::format("{}.{}", layer_, part)) != nullptr;
  }

  [[nodiscard]] Error wrong(const char* part, const std::string& what) const {
    return {ErrorCode::bad_file, fmt::format("{}: {}.{}: {}", directory_, layer_, part, what)};
  }

  void expect(bool holds, const char* part, const char* expected) const {
    if (!holds) throw wrong(part, fmt::format("expected {}", expected));
  }

  void expect_finite(const char* part, std::span<const float> values) const {
    expect(std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }),
           part, "finite numbers");
  }

  /// Fills `out`, which has the size that `shape` and `type` say.
  template <class T>
  void copy(const char* part, TensorType type, const std::vector<std::size_t>& shape,
            std::vector<T>& out) const {
    const nybble::TensorView* tensor = checkpoint_.find(fmt::format("{}.{}", layer_, part));
    if (tensor == nullptr) {
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: no tensor {}.{}", directory_, layer_, part));
    }
    if (tensor->type != type || tensor->shape != shape) {
      throw Error(
          tensor->type != type ? ErrorCode::bad_file : ErrorCode::bad_shape,
          fmt::format("{}: {}.{} is {} [{}], expected {} [{}]", directory_, layer_, part,
                      nybble::tensor_type_name(tensor->type), fmt::join(tensor->shape, ", "),
                      nybble::tensor_type_name(type), fmt::join(shape, ", ")));
    }
    std::memcpy(out.data(), tensor->bytes.data(), tensor->bytes.size());
  }

  const nybble::Checkpoint& checkpoint_;
  std::string directory_, layer_;
};

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

/// Adds the tensors of one layer. `scalars` keeps what has no memory of its own yet.
void add_layer(nybble::SafetensorsWriter& writer, const std::string& name,
               const nybble::QuantizedLayer& layer, std::vector<std::vector<float>>& scalars) {
  const QuantizedMatrix& matrix = layer.weight;
  const nybble::FormatInfo& info = matrix.format.info();
  const nybble::Transforms& transforms = layer.transforms;
  if (transforms.has_side_branch()) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: side branches cannot be stored yet", name));
  }
  const auto add = [&](const char* part, TensorType type, const std::vector<std::size_t>& shape,
                       std::span<const std::byte> bytes) {
    writer.add(fmt::format("{}.{}", name, part), type, shape, bytes);
  };
  const auto add_scalars = [&](const char* part, std::vector<float> values) {
    scalars.push_back(std::move(values));
    add(part, TensorType::f32, {scalars.back().size()}, bytes_of(scalars.back()));
  };
  add("codes", TensorType::u8, {matrix.rows, matrix.padded_cols / 2}, bytes_of(matrix.codes));
  add("scales", LayerReader::scales_type(info), LayerReader::scales_shape(matrix),
      bytes_of(matrix.scales));
  if (!matrix.zero_points.empty()) {
    add("zero_points", TensorType::u8, {matrix.rows, matrix.groups}, bytes_of(matrix.zero_points));
  }
  if (info.double_quantized) {
    add("nested_scales", TensorType::f32, {matrix.nested_scales.size()},
        bytes_of(matrix.nested_scales));
    add_scalars("nested_offset", {matrix.nested_offset});
  }
  if (info.tensor_scale) add_scalars("tensor_scale", {matrix.tensor.scale, matrix.tensor.amax});
  if (!transforms.channel_scale.scale.empty()) {
    add("channel_scale", TensorType::f32, {matrix.cols}, bytes_of(transforms.channel_scale.scale));
  }
  if (!transforms.permutation.source.empty()) {
    add("permutation", TensorType::u32, {matrix.cols}, bytes_of(transforms.permutation.source));
  }
  if (transforms.hadamard.block == 0) return;
  writer.set_metadata(name + ".hadamard_block", std::to_string(transforms.hadamard.block));
  // A rotation without random signs is one whose signs are all 1.
  std::vector<float> signs = transforms.hadamard.signs;
  if (signs.empty()) signs.assign(matrix.cols, 1.0F);
  add_scalars("hadamard_signs", std::move(signs));
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
  return find_metadata(checkpoint, "nybble.format") != nullptr;
}

QuantizedWeights read_quantized(const nybble::Checkpoint& checkpoint, const Config& config,
                                const std::string& name) {
  const auto metadata = [&](const char* key) {
    const std::string* value = find_metadata(checkpoint, key);
    if (value == nullptr) {
      throw Error(ErrorCode::bad_file, fmt::format("{}: no {} in the metadata", name, key));
    }
    return *value;
  };
  if (const std::string version = metadata("nybble.version"); version != kVersion) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: quantized checkpoint of version \"{}\", expected \"{}\"", name,
                            version, kVersion));
  }
  // In a file, a format that is not understood is the file's fault, not an option's.
  const auto parsed = [&](const char* key, const auto& parse) {
    const std::string value = metadata(key);
    try {
      return parse(value);
    } catch (const Error& error) {
      throw Error(ErrorCode::bad_file, fmt::format("{}: {}: {}", name, key, error.what()));
    }
  };
  QuantizedWeights out{parsed("nybble.format", nybble::parse_format),
                       metadata("nybble.method"),
                       parsed("nybble.path", nybble::parse_path),
                       std::nullopt,
                       {},
                       0};
  if (find_metadata(checkpoint, "nybble.activations") != nullptr) {
    out.activations = parsed("nybble.activations", nybble::parse_format);
  }
  for (std::size_t block = 0; block < config.layers; ++block) {
    std::vector<nybble::QuantizedLayer>& layers = out.blocks.emplace_back();
    for (std::size_t i = 0; i < kLinearCount; ++i) {
      const auto index = static_cast<LinearIndex>(i);
      const auto [rows, cols] = linear_shape(config, index);
      const LayerReader reader(checkpoint, name, linear_name(block, index) + ".weight");
      layers.push_back(reader.read(out.format, rows, cols));
    }
  }
  return out;
}

QuantizedCheckpointWriter::QuantizedCheckpointWriter(const std::filesystem::path& directory,
                                                     const std::filesystem::path& source)
    : directory_(directory), source_(source), writer_(prepare(directory, source)) {}

void QuantizedCheckpointWriter::finish(const nybble::Checkpoint& checkpoint,
                                       const QuantizedWeights& quantized) {
  std::map<std::string, const nybble::QuantizedLayer*> layers;
  for (std::size_t block = 0; block < quantized.blocks.size(); ++block) {
    for (std::size_t i = 0; i < kLinearCount; ++i) {
      layers[linear_name(block, static_cast<LinearIndex>(i)) + ".weight"] =
          &quantized.blocks[block][i];
    }
  }
  for (const nybble::SafetensorsFile& shard : checkpoint.shards()) {
    for (const auto& [key, value] : shard.metadata()) writer_.set_metadata(key, value);
  }
  writer_.set_metadata("nybble.version", kVersion);
  writer_.set_metadata("nybble.format", quantized.format.info().spec);
  writer_.set_metadata("nybble.method", quantized.method);
  writer_.set_metadata("nybble.path", nybble::path_name(quantized.path));
  if (quantized.activations) {
    writer_.set_metadata("nybble.activations", quantized.activations->info().spec);
  }
  std::vector<std::vector<float>> scalars;  // moved, their memory stays where it is
  for (const nybble::SafetensorsFile& shard : checkpoint.shards()) {
    for (const nybble::TensorView& tensor : shard.tensors()) {
      const auto layer = layers.find(tensor.name);
      if (layer == layers.end()) {
        writer_.add(tensor.name, tensor.type, tensor.shape, tensor.bytes);
      } else {
        add_layer(writer_, tensor.name, *layer->second, scalars);
      }
    }
  }
  const nybble::MappedFile config(source_ / "config.json");
  nybble::AtomicFile copy(directory_ / "config.json");
  copy.write(config.bytes());
  copy.commit();
  writer_.finish();
}

}  // namespace llama
