#include "gguf_checkpoint.h"

#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gguf_model.h"
#include "nybble/io/stored_layer.h"

namespace llama {
namespace {

/// The order that undoes `order`.
std::vector<std::uint32_t> inverse(const std::vector<std::uint32_t>& order) {
  std::vector<std::uint32_t> out(order.size());
  for (std::uint32_t i = 0; i < order.size(); ++i) out[order[i]] = i;
  return out;
}

std::vector<float> file_rows(std::vector<float> values, const std::vector<std::uint32_t>& order) {
  if (order.empty()) return values;
  std::vector<float> out;
  out.reserve(values.size());
  const std::size_t width = values.size() / order.size();
  for (const std::uint32_t row : inverse(order)) {
    out.insert(out.end(), values.data() + row * width, values.data() + (row + 1) * width);
  }
  return out;
}

}  // namespace

void GgufCheckpointWriter::set_keys(const Config& config) {
  const auto number = [&](const char* key, std::size_t value) {
    writer_.set(key, static_cast<std::uint32_t>(value));
  };
  writer_.set("general.architecture", std::string("llama"));
  number("llama.context_length", config.max_positions);
  number("llama.embedding_length", config.hidden_size);
  number("llama.block_count", config.layers);
  number("llama.feed_forward_length", config.intermediate_size);
  number("llama.attention.head_count", config.heads);
  number("llama.attention.head_count_kv", config.kv_heads);
  number("llama.attention.key_length", config.head_dim);
  number("llama.attention.value_length", config.head_dim);
  number("llama.rope.dimension_count", config.head_dim);
  number("llama.vocab_size", config.vocab_size);
  writer_.set("llama.attention.layer_norm_rms_epsilon", config.rms_norm_eps);
  writer_.set("llama.rope.freq_base", config.rope_theta);
  if (config.bos) writer_.set("tokenizer.ggml.bos_token_id", *config.bos);
}

void GgufCheckpointWriter::finish(const nybble::Checkpoint& checkpoint, const Config& config,
                                  QuantizedWeights& quantized) {
  set_keys(config);
  std::map<std::string, nybble::QuantizedLayer*> layers;
  for (std::size_t block = 0; block < quantized.blocks.size(); ++block) {
    for (std::size_t i = 0; i < kLinearCount; ++i) {
      auto& layer = quantized.blocks[block][i];
      if (layer) layers[linear_name(block, static_cast<LinearIndex>(i)) + ".weight"] = &*layer;
    }
  }
  std::deque<nybble::StoredLayer> stored;  // the writer reads them in finish()
  std::deque<std::vector<float>> values;
  for (const nybble::SafetensorsFile& shard : checkpoint.shards()) {
    for (const nybble::TensorView& tensor : shard.tensors()) {
      const std::string name = gguf_name(tensor.name);
      const std::vector<std::uint32_t> order = gguf_row_order(tensor.name, config);
      const auto found = layers.find(tensor.name);
      if (found == layers.end()) {
        values.push_back(file_rows(nybble::to_f32(tensor), order));
        writer_.add(name, nybble::GgufType::f32, tensor.shape,
                    std::as_bytes(std::span(values.back())));
        continue;
      }
      nybble::QuantizedLayer& layer = *found->second;
      if (!order.empty()) layer.weight = nybble::select_rows(layer.weight, inverse(order));
      stored.push_back({name.substr(0, name.rfind(".weight")),
                        {layer.weight.rows, layer.weight.cols},
                        std::move(layer.weight),
                        std::move(layer.transforms)});
      nybble::add_layer(writer_, stored.back());
    }
  }
  writer_.finish();
}

}  // namespace llama
