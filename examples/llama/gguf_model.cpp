#include "gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <utility>

#include "nybble/error.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;

constexpr std::size_t kLargestSize = std::size_t{1} << 24;

/// The file's keys, which QuantizedCheckpoint gives as text.
class Keys {
 public:
  Keys(const nybble::QuantizedCheckpoint& checkpoint, std::string file)
      : values_(checkpoint.metadata()), file_(std::move(file)) {}

  std::size_t size(const std::string& key, std::size_t fallback = 0) const {
    const auto found = values_.find(key);
    if (found == values_.end() && fallback != 0) return fallback;
    const std::string text = found == values_.end() ? "missing" : found->second;
    std::size_t value = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || stop != text.data() + text.size() || value == 0 ||
        value > kLargestSize) {
      throw wrong(key, text, fmt::format("an integer from 1 to {}", kLargestSize));
    }
    return value;
  }

  float positive(const std::string& key, float fallback) const {
    const auto found = values_.find(key);
    if (found == values_.end()) return fallback;
    const std::string& text = found->second;
    float value = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || stop != text.data() + text.size() || !(value > 0) ||
        value > 1e30F) {
      throw wrong(key, text, "a positive number");
    }
    return value;
  }

  void require(const std::string& key, const std::string& value) const {
    const auto found = values_.find(key);
    const std::string text = found == values_.end() ? "missing" : found->second;
    if (text != value) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{}: {} is {}, expected {}", file_, key, text, value));
    }
  }

  void require_absent(const std::string& prefix) const {
    const auto found = values_.lower_bound(prefix);
    if (found == values_.end() || !found->first.starts_with(prefix)) return;
    if (found->second == "none") return;
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: {} is {}, this example has no scaled rotary embeddings", file_,
                            found->first, found->second));
  }

  [[nodiscard]] bool has(const std::string& key) const { return values_.contains(key); }

 private:
  [[nodiscard]] Error wrong(const std::string& key, const std::string& text,
                            const std::string& expected) const {
    return {ErrorCode::bad_file,
            fmt::format("{}: {} is {}, expected {}", file_, key, text, expected)};
  }

  const std::map<std::string, std::string>& values_;
  std::string file_;
};

/// Rows of a tensor, whether it is quantized or not.
std::size_t rows_of(const nybble::QuantizedCheckpoint& checkpoint, const std::string& module,
                    const std::string& file) {
  for (const auto& layer : checkpoint.layers()) {
    if (layer.name == module) return layer.shape.front();
  }
  for (const auto& tensor : checkpoint.tensors()) {
    if (tensor.name == module + ".weight" && !tensor.shape.empty()) return tensor.shape.front();
  }
  throw Error(ErrorCode::bad_file, fmt::format("{}: no tensor {}.weight", file, module));
}

bool has_tensor(const nybble::QuantizedCheckpoint& checkpoint, const std::string& name) {
  const auto& tensors = checkpoint.tensors();
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const auto& tensor) { return tensor.name == name; });
}

}  // namespace

bool is_gguf(const std::filesystem::path& path) { return path.extension() == ".gguf"; }

Config gguf_config(const nybble::QuantizedCheckpoint& checkpoint, const std::string& file) {
  const Keys keys(checkpoint, file);
  keys.require("general.architecture", "llama");
  keys.require_absent("llama.rope.scaling.");
  keys.require_absent("llama.expert_count");

  Config config;
  config.vocab_size = rows_of(checkpoint, "token_embd", file);
  config.hidden_size = keys.size("llama.embedding_length");
  config.intermediate_size = keys.size("llama.feed_forward_length");
  config.layers = keys.size("llama.block_count");
  config.heads = keys.size("llama.attention.head_count");
  config.kv_heads = keys.size("llama.attention.head_count_kv", config.heads);
  config.max_positions = keys.size("llama.context_length");
  config.rms_norm_eps = keys.positive("llama.attention.layer_norm_rms_epsilon", 1e-6F);
  config.rope_theta = keys.positive("llama.rope.freq_base", 10000.0F);
  config.head_dim = keys.size("llama.attention.key_length",
                              std::max<std::size_t>(config.hidden_size / config.heads, 1));
  config.tied_embeddings = !has_tensor(checkpoint, "output.weight") &&
                           std::none_of(checkpoint.layers().begin(), checkpoint.layers().end(),
                                        [](const auto& layer) { return layer.name == "output"; });
  config.attention_bias = has_tensor(checkpoint, "blk.0.attn_q.bias");
  if (keys.has("tokenizer.ggml.bos_token_id")) {
    const auto bos = static_cast<Token>(keys.size("tokenizer.ggml.bos_token_id", 1));
    if (bos < config.vocab_size) config.bos = bos;
  }
  if (config.heads % config.kv_heads != 0 || config.head_dim % 2 != 0) {
    throw Error(
        ErrorCode::bad_shape,
        fmt::format("{}: {} heads of {}, {} of keys: expected keys' heads to divide them and "
                    "an even size",
                    file, config.heads, config.head_dim, config.kv_heads));
  }
  const std::size_t rotated = keys.size("llama.rope.dimension_count", config.head_dim);
  if (rotated != config.head_dim) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: rotary embeddings of {} of {} channels, expected all", file,
                            rotated, config.head_dim));
  }
  return config;
}

std::string gguf_name(const std::string& name) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kWhole = {
      {{"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}}};
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kInBlock = {
      {{"self_attn.q_proj", "attn_q"},
       {"self_attn.k_proj", "attn_k"},
       {"self_attn.v_proj", "attn_v"},
       {"self_attn.o_proj", "attn_output"},
       {"mlp.gate_proj", "ffn_gate"},
       {"mlp.up_proj", "ffn_up"},
       {"mlp.down_proj", "ffn_down"},
       {"input_layernorm", "attn_norm"},
       {"post_attention_layernorm", "ffn_norm"}}};
  std::string suffix;
  std::string module = name;
  for (const char* end : {".weight", ".bias"}) {
    if (!name.ends_with(end)) continue;
    suffix = end;
    module.resize(name.size() - suffix.size());
  }
  for (const auto& [ours, theirs] : kWhole) {
    if (module == ours) return std::string(theirs) + suffix;
  }
  constexpr std::string_view kBlocks = "model.layers.";
  if (module.starts_with(kBlocks)) {
    const std::size_t dot = module.find('.', kBlocks.size());
    const std::string index = module.substr(kBlocks.size(), dot - kBlocks.size());
    for (const auto& [ours, theirs] : kInBlock) {
      if (module.substr(dot + 1) == ours) return fmt::format("blk.{}.{}{}", index, theirs, suffix);
    }
  }
  throw Error(ErrorCode::unsupported, fmt::format("{}: has no name in GGUF", name));
}

std::vector<std::uint32_t> gguf_row_order(const std::string& name, const Config& config) {
  const bool q = name.find("self_attn.q_proj") != std::string::npos;
  const bool k = name.find("self_attn.k_proj") != std::string::npos;
  if (!q && !k) return {};
  std::vector<std::uint32_t> order;
  const std::size_t half = config.head_dim / 2;
  for (std::size_t head = 0; head < (q ? config.heads : config.kv_heads); ++head) {
    for (std::size_t part = 0; part < 2; ++part) {
      for (std::size_t i = 0; i < half; ++i) {
        order.push_back(static_cast<std::uint32_t>(head * config.head_dim + 2 * i + part));
      }
    }
  }
  return order;
}

}  // namespace llama
