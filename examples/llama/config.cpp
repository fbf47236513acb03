#include "config.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "nybble/error.h"

namespace llama {
namespace {

using nybble::Error;
using nybble::ErrorCode;

/// Far above any real model, low enough that products of a few sizes cannot overflow.
constexpr std::size_t kLargestSize = std::size_t{1} << 24;

class Reader {
 public:
  Reader(const nlohmann::json& json, std::string file) : json_(json), file_(std::move(file)) {}

  std::size_t size(const char* key, std::optional<std::size_t> fallback = {}) const {
    const auto found = json_.find(key);
    if (found == json_.end() || found->is_null()) {
      if (fallback) return *fallback;
      throw Error(ErrorCode::bad_file, fmt::format("{}: no key \"{}\"", file_, key));
    }
    if (!found->is_number_unsigned() || *found < 1U || *found > kLargestSize) {
      throw wrong(key, *found, fmt::format("an integer from 1 to {}", kLargestSize));
    }
    return found->get<std::size_t>();
  }

  float positive(const char* key, float fallback) const {
    const auto found = json_.find(key);
    if (found == json_.end() || found->is_null()) return fallback;
    if (!found->is_number() || !(found->get<float>() > 0) || found->get<float>() > 1e30F) {
      throw wrong(key, *found, "a positive number");
    }
    return found->get<float>();
  }

  bool flag(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end() || found->is_null()) return false;
    if (!found->is_boolean()) throw wrong(key, *found, "true or false");
    return found->get<bool>();
  }

  /// Refuses models whose `key` says that they compute something else.
  void require(const char* key, const char* value) const {
    const auto found = json_.find(key);
    if (found != json_.end() && *found != value) {
      throw Error(ErrorCode::unsupported, fmt::format("{}: \"{}\" is {}, expected \"{}\"", file_,
                                                      key, found->dump(), value));
    }
  }

  void require_absent(const char* key) const {
    const auto found = json_.find(key);
    if (found != json_.end() && !found->is_null()) {
      throw Error(ErrorCode::unsupported, fmt::format("{}: \"{}\" is {}, this example has none",
                                                      file_, key, found->dump()));
    }
  }

  void require_divides(const char* what, std::size_t divisor, const char* whole,
                       std::size_t value) const {
    if (value % divisor != 0) {
      throw Error(ErrorCode::bad_shape, fmt::format("{}: {} {} does not divide {} {}", file_, what,
                                                    divisor, whole, value));
    }
  }

 private:
  Error wrong(const char* key, const nlohmann::json& value, const std::string& expected) const {
    return {ErrorCode::bad_file,
            fmt::format("{}: \"{}\" is {}, expected {}", file_, key, value.dump(), expected)};
  }
  const nlohmann::json& json_;
  std::string file_;
};

}  // namespace

Config load_config(const std::filesystem::path& directory) {
  const std::string file = (directory / "config.json").string();
  std::ifstream stream(file);
  if (!stream) throw Error(ErrorCode::io, file + ": cannot be opened");
  const auto json = nlohmann::json::parse(stream, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) throw Error(ErrorCode::bad_file, file + ": not a JSON object");

  const Reader reader(json, file);
  reader.require("model_type", "llama");
  reader.require("hidden_act", "silu");
  reader.require_absent("rope_scaling");
  reader.require_absent("rope_parameters");

  Config config;
  config.vocab_size = reader.size("vocab_size");
  config.hidden_size = reader.size("hidden_size");
  config.intermediate_size = reader.size("intermediate_size");
  config.layers = reader.size("num_hidden_layers");
  config.heads = reader.size("num_attention_heads");
  config.kv_heads = reader.size("num_key_value_heads", config.heads);
  config.max_positions = reader.size("max_position_embeddings");
  config.rms_norm_eps = reader.positive("rms_norm_eps", 1e-6F);
  config.rope_theta = reader.positive("rope_theta", 10000.0F);
  config.tied_embeddings = reader.flag("tie_word_embeddings");
  config.attention_bias = reader.flag("attention_bias");
  config.mlp_bias = reader.flag("mlp_bias");
  // Some configs give a list of them; any start will do for sampling.
  if (const auto bos = json.find("bos_token_id"); bos != json.end() && bos->is_number_unsigned()) {
    if (*bos < config.vocab_size) config.bos = bos->get<Token>();
  }

  reader.require_divides("num_key_value_heads", config.kv_heads, "num_attention_heads",
                         config.heads);
  if (json.value("head_dim", nlohmann::json()).is_null()) {
    reader.require_divides("num_attention_heads", config.heads, "hidden_size", config.hidden_size);
  }
  config.head_dim = reader.size("head_dim", config.hidden_size / config.heads);
  // RoPE turns pairs of channels.
  reader.require_divides("2", 2, "head_dim", config.head_dim);
  return config;
}

}  // namespace llama
