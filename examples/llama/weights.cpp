#include "weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "nybble/error.h"
#include "nybble/io/safetensors.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;

class Loader {
 public:
  explicit Loader(const std::filesystem::path& directory)
      : checkpoint_(directory), directory_(directory.string()) {}

  std::vector<float> values(const std::string& name, const std::vector<std::size_t>& shape) const {
    const nybble::TensorView* tensor = checkpoint_.find(name);
    if (tensor == nullptr) {
      throw Error(ErrorCode::bad_file, fmt::format("{}: no tensor {}", directory_, name));
    }
    if (tensor->shape != shape) {
      throw Error(ErrorCode::bad_shape,
                  fmt::format("{}: {} has shape [{}], expected [{}] by config.json", directory_,
                              name, fmt::join(tensor->shape, ", "), fmt::join(shape, ", ")));
    }
    return nybble::to_f32(*tensor);
  }

  Tensor tensor(const std::string& name, std::size_t rows, std::size_t cols) const {
    return {name, rows, cols, values(name, {rows, cols})};
  }

  LinearWeights linear(const std::string& name, std::size_t rows, std::size_t cols,
                       bool bias) const {
    return {tensor(name + ".weight", rows, cols),
            bias ? values(name + ".bias", {rows}) : std::vector<float>{}};
  }

  BlockWeights block(const Config& c, std::size_t index) const {
    const std::string prefix = fmt::format("model.layers.{}.", index);
    const std::string attention = prefix + "self_attn.";
    const std::string mlp = prefix + "mlp.";
    const std::size_t q_size = c.heads * c.head_dim;
    const std::size_t kv_size = c.kv_heads * c.head_dim;
    BlockWeights block;
    block.attention_norm = values(prefix + "input_layernorm.weight", {c.hidden_size});
    block.mlp_norm = values(prefix + "post_attention_layernorm.weight", {c.hidden_size});
    block.q = linear(attention + "q_proj", q_size, c.hidden_size, c.attention_bias);
    block.k = linear(attention + "k_proj", kv_size, c.hidden_size, c.attention_bias);
    block.v = linear(attention + "v_proj", kv_size, c.hidden_size, c.attention_bias);
    block.o = linear(attention + "o_proj", c.hidden_size, q_size, c.attention_bias);
    block.gate = linear(mlp + "gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    block.up = linear(mlp + "up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    block.down = linear(mlp + "down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
    return block;
  }

 private:
  nybble::Checkpoint checkpoint_;
  std::string directory_;
};

}  // namespace

std::shared_ptr<const Weights> load_weights(const std::filesystem::path& directory) {
  auto weights = std::make_shared<Weights>();
  weights->config = load_config(directory);
  const Config& config = weights->config;
  const Loader loader(directory);
  weights->embedding =
      loader.tensor("model.embed_tokens.weight", config.vocab_size, config.hidden_size);
  for (std::size_t i = 0; i < config.layers; ++i) {
    weights->blocks.push_back(loader.block(config, i));
  }
  weights->final_norm = loader.values("model.norm.weight", {config.hidden_size});
  if (!config.tied_embeddings) {
    weights->untied_head = loader.tensor("lm_head.weight", config.vocab_size, config.hidden_size);
  }
  return weights;
}

}  // namespace llama
