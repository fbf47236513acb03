#include "weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "nybble/error.h"
#include "quantized_checkpoint.h"

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

WeightsReader::WeightsReader(const std::filesystem::path& directory)
    : directory_(directory),
      config_(load_config(directory)),
      checkpoint_(directory),
      quantized_(is_quantized(checkpoint_)) {}

std::vector<float> WeightsReader::values(const std::string& name,
                                         const std::vector<std::size_t>& shape) const {
  const nybble::TensorView* tensor = checkpoint_.find(name);
  if (tensor == nullptr) {
    throw Error(ErrorCode::bad_file, fmt::format("{}: no tensor {}", directory_.string(), name));
  }
  if (tensor->shape != shape) {
    throw Error(
        ErrorCode::bad_shape,
        fmt::format("{}: {} has shape [{}], expected [{}] by config.json", directory_.string(),
                    name, fmt::join(tensor->shape, ", "), fmt::join(shape, ", ")));
  }
  return nybble::to_f32(*tensor);
}

Tensor WeightsReader::tensor(const std::string& name, std::size_t rows, std::size_t cols) const {
  return {name, rows, cols, values(name, {rows, cols})};
}

LinearWeights WeightsReader::linear(std::size_t block, LinearIndex index) const {
  const auto [rows, cols] = linear_shape(config_, index);
  const std::string name = linear_name(block, index);
  const bool bias = index < kGate ? config_.attention_bias : config_.mlp_bias;
  return {
      quantized_ ? Tensor{name + ".weight", rows, cols, {}} : tensor(name + ".weight", rows, cols),
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

std::shared_ptr<const Weights> load_weights(const std::filesystem::path& directory) {
  const WeightsReader reader(directory);
  auto weights = std::make_shared<Weights>();
  weights->config = reader.config();
  weights->embedding = reader.embedding();
  for (std::size_t i = 0; i < reader.config().layers; ++i) {
    weights->blocks.push_back(reader.block(i));
  }
  weights->final_norm = reader.final_norm();
  weights->untied_head = reader.untied_head();
  if (reader.quantized()) {
    weights->quantized =
        std::make_shared<const QuantizedWeights>(read_quantized(directory, reader.config()));
  }
  return weights;
}

}  // namespace llama
