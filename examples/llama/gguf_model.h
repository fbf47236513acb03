#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "config.h"
#include "nybble/io/quantized_checkpoint.h"

/// A Llama in a .gguf file: other names, and rows of q and k in another order.
namespace llama {

bool is_gguf(const std::filesystem::path& path);

/// What config.json says elsewhere, from the file's keys ("llama.block_count", ...). Throws
/// nybble::Error: bad_file (a key is missing or makes no sense), unsupported (not a plain Llama).
Config gguf_config(const nybble::QuantizedCheckpoint& checkpoint, const std::string& file);

/// The file's name of a tensor or module: "blk.0.attn_q" for "model.layers.0.self_attn.q_proj",
/// with
/// ".weight" or ".bias" kept.
std::string gguf_name(const std::string& name);

/// llama.cpp's converter interleaves the two halves of each head of q and k, for another way to
/// write rotary embeddings. Row r of the Hugging Face order is row order[r] of the file. Empty for
/// all other tensors.
std::vector<std::uint32_t> gguf_row_order(const std::string& name, const Config& config);

}  // namespace llama
