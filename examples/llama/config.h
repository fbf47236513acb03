#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>

namespace llama {

using Token = std::uint32_t;

/// The part of a Hugging Face config.json that decides what a Llama computes.
struct Config {
  std::size_t vocab_size = 0;
  std::size_t hidden_size = 0;
  std::size_t intermediate_size = 0;
  std::size_t layers = 0;
  std::size_t heads = 0;
  std::size_t kv_heads = 0;  ///< divides heads; each serves heads / kv_heads queries
  std::size_t head_dim = 0;  ///< even
  std::size_t max_positions = 0;
  float rms_norm_eps = 0;
  float rope_theta = 0;
  bool tied_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  std::optional<Token> bos;

  /// One byte is one token: such models need no tokenizer.
  [[nodiscard]] bool is_byte_model() const { return vocab_size == 256; }
  /// What a text starts with where nothing else is given.
  [[nodiscard]] Token first_token() const {
    return bos.value_or(is_byte_model() ? Token{'\n'} : Token{0});
  }
};

/// Reads `directory`/config.json. Throws nybble::Error: io (cannot be read), bad_file (not JSON, a
/// key missing or of the wrong kind), bad_shape (sizes that do not divide), unsupported (not a
/// plain Llama).
Config load_config(const std::filesystem::path& directory);

}  // namespace llama
