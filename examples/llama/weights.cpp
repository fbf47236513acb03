#include "weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "gguf_model.h"
#include "nybble/error.h"
#include "nybble/format/registry.h"

namespace llama {

using nybble::Error;
using nybble::ErrorCode;

std::string linear_name(std::size_t block, LinearIndex index) {
  static constexpr const char* kNames[kLinearCount] = {
      "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
      "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
  return fmt::format("model.layers.{}.{}", block, kNames[index]);
}

std::pair<std::size_t, std::size_t> linear_shape(const Config& config, LinearIndex index) {
  const std::size_t q_size = config.heads * config.head_dim;
  const std::size_t kv_size = config.kv_heads * config.head_dim;
  switch (index) {
    case kQ:
      return {q_size, config.hidden_size};
    case kK:
    case kV:
      return {kv_size, config.hidden_size};
    case kO:
      return {config.hidden_size, q_size};
    case kDown:
      return {config.hidden_size, config.intermediate_size};
    default:
      return {config.intermediate_size, config.hidden_size};
  }
}

WeightsReader::WeightsReader(const std::filesystem::path& path)
    : path_(path),
      checkpoint_(path),
      gguf_(is_gguf(path)),
      config_(gguf_ ? gguf_config(checkpoint_, path.string()) : load_config(path)),
      quantized_(false) {
  for (std::size_t block = 0; block < config_.layers; ++block) {
    for (std::size_t i = 0; i < kLinearCount; ++i) {
      const std::string name = linear_name(block, static_cast<LinearIndex>(i));
      quantized_ = quantized_ || find_layer(name) != nullptr;
    }
  }
}

std::string WeightsReader::file_name(const std::string& name) const {
  return gguf_ ? gguf_name(name) : name;
}

const nybble::QuantizedCheckpoint::LayerEntry* WeightsReader::find_layer(
    const std::string& module) const {
  const std::string name = file_name(module);
  const auto& layers = checkpoint_.layers();
  const auto found = std::find_if(layers.begin(), layers.end(),
                                  [&](const auto& layer) { return layer.name == name; });
  return found == layers.end() ? nullptr : &*found;
}

void WeightsReader::expect_shape(const std::string& name, const std::vector<std::size_t>& found,
                                 const std::vector<std::size_t>& expected) const {
  if (found == expected) return;
  throw Error(ErrorCode::bad_shape,
              fmt::format("{}: {} has shape [{}], expected [{}] by config.json", path_.string(),
                          name, fmt::join(found, ", "), fmt::join(expected, ", ")));
}

nybble::QuantizedLayer WeightsReader::layer(const std::string& module, std::size_t rows,
                                            std::size_t cols) const {
  nybble::StoredLayer stored = checkpoint_.read(file_name(module));
  // Early checkpoints of nybble's own do not say how many columns are padding.
  const std::vector<std::string>& tensors = find_layer(module)->tensors;
  const bool early =
      checkpoint_.metadata().contains("nybble.version") &&
      std::find(tensors.begin(), tensors.end(), module + ".weight.shape") == tensors.end();
  if (early && stored.weight.rows == rows &&
      nybble::QuantizedMatrix(stored.weight.format, rows, cols).padded_cols ==
          stored.weight.padded_cols) {
    stored.weight.cols = cols;
    stored.shape = {rows, cols};
  }
  expect_shape(module, stored.shape, {rows, cols});
  if (gguf_) {
    const std::vector<std::uint32_t> order = gguf_row_order(module, config_);
    if (!order.empty()) stored.weight = nybble::select_rows(stored.weight, order);
  }
  return {std::move(stored.weight), std::move(stored.transforms), {}, 0};
}

std::vector<float> WeightsReader::values(const std::string& name,
                                         const std::vector<std::size_t>& shape) const {
  const std::string stored_name = file_name(name);
  const auto& tensors = checkpoint_.tensors();
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const auto& tensor) { return tensor.name == stored_name; });
  if (found == tensors.end()) {
    // Embeddings and heads that are quantized are used in f32 here.
    const std::string module = name.substr(0, name.rfind(".weight"));
    if (shape.size() == 2 && find_layer(module) != nullptr) {
      nybble::SerialExecutor serial;
      return nybble::effective_weight(layer(module, shape[0], shape[1]), serial);
    }
    throw Error(ErrorCode::bad_file, fmt::format("{}: no tensor {}", path_.string(), stored_name));
  }
  expect_shape(name, found->shape, shape);
  std::vector<float> out = checkpoint_.read_f32(stored_name);
  const std::vector<std::uint32_t> order =
      gguf_ ? gguf_row_order(name, config_) : std::vector<std::uint32_t>();
  if (order.empty()) return out;
  std::vector<float> ordered;
  ordered.reserve(out.size());
  const std::size_t width = out.size() / order.size();
  for (const std::uint32_t row : order) {
    ordered.insert(ordered.end(), out.data() + row * width, out.data() + (row + 1) * width);
  }
  return ordered;
}

Tensor WeightsReader::tensor(const std::string& name, std::size_t rows, std::size_t cols) const {
  return {name, rows, cols, values(name, {rows, cols})};
}

LinearWeights WeightsReader::linear(std::size_t block, LinearIndex index) const {
  const auto [rows, cols] = linear_shape(config_, index);
  const std::string name = linear_name(block, index);
  const bool bias = index < kGate ? config_.attention_bias : config_.mlp_bias;
  const bool quantized = find_layer(name) != nullptr;
  return {
      quantized ? Tensor{name + ".weight", rows, cols, {}} : tensor(name + ".weight", rows, cols),
      bias ? values(name + ".bias", {rows}) : std::vector<float>{}};
}

Tensor WeightsReader::embedding() const {
  return tensor("model.embed_tokens.weight", config_.vocab_size, config_.hidden_size);
}

std::vector<float> WeightsReader::final_norm() const {
  return values("model.norm.weight", {config_.hidden_size});
}

Tensor WeightsReader::untied_head() const {
  if (config_.tied_embeddings) return {};
  return tensor("lm_head.weight", config_.vocab_size, config_.hidden_size);
}

BlockWeights WeightsReader::block(std::size_t index) const {
  const std::string prefix = fmt::format("model.layers.{}.", index);
  BlockWeights block;
  block.attention_norm = values(prefix + "input_layernorm.weight", {config_.hidden_size});
  block.mlp_norm = values(prefix + "post_attention_layernorm.weight", {config_.hidden_size});
  for (std::size_t i = 0; i < kLinearCount; ++i) {
    block.linear[i] = linear(index, static_cast<LinearIndex>(i));
  }
  return block;
}

QuantizedWeights WeightsReader::quantized_weights() const {
  std::optional<nybble::AnyFormat> first;
  std::string layout;
  std::vector<std::vector<std::optional<nybble::QuantizedLayer>>> blocks;
  for (std::size_t block = 0; block < config_.layers; ++block) {
    auto& layers = blocks.emplace_back(kLinearCount);
    for (std::size_t i = 0; i < kLinearCount; ++i) {
      const auto index = static_cast<LinearIndex>(i);
      const std::string name = linear_name(block, index);
      const auto* entry = find_layer(name);
      if (entry == nullptr) continue;
      const auto [rows, cols] = linear_shape(config_, index);
      layers[i] = layer(name, rows, cols);
      if (!first) first = layers[i]->weight.format;
      layout = entry->layout;
    }
  }
  // In a file, what is not understood is the file's fault, not an option's.
  const auto parsed = [&](const char* key, const auto& parse, auto fallback) {
    const auto found = checkpoint_.metadata().find(key);
    if (found == checkpoint_.metadata().end()) return fallback;
    try {
      return decltype(fallback)(parse(found->second));
    } catch (const Error& error) {
      throw Error(ErrorCode::bad_file,
                  fmt::format("{}: {}: {}", path_.string(), key, error.what()));
    }
  };
  return {parsed("nybble.format", nybble::parse_format, first.value()),
          parsed(
              "nybble.method", [](const std::string& method) { return method; },
              fmt::format("as in {}", layout)),
          parsed("nybble.path", nybble::parse_path, nybble::Path::a8),
          parsed("nybble.activations", nybble::parse_format, std::optional<nybble::AnyFormat>()),
          std::move(blocks),
          0};
}

std::shared_ptr<const Weights> load_weights(const std::filesystem::path& path) {
  const WeightsReader reader(path);
  auto weights = std::make_shared<Weights>();
  weights->config = reader.config();
  weights->embedding = reader.embedding();
  for (std::size_t i = 0; i < reader.config().layers; ++i) {
    weights->blocks.push_back(reader.block(i));
  }
  weights->final_norm = reader.final_norm();
  weights->untied_head = reader.untied_head();
  if (reader.quantized()) {
    weights->quantized = std::make_shared<const QuantizedWeights>(reader.quantized_weights());
  }
  return weights;
}

}  // namespace llama
