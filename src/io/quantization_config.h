#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

/// What the files beside the tensors of a checkpoint say of how they were quantized. A checkpoint
/// is a folder or a .safetensors file: its files are those of the folder that it is in.
namespace nybble::io {

/// Where config.json is.
std::filesystem::path config_folder(const std::filesystem::path& checkpoint);

/// quantization_config of config.json, or what compressed-tensors once called it, completed by the
/// files beside it that tools write it to; an empty object: nothing says anything. Throws bad_file
/// where they are damaged or contradict each other.
nlohmann::json read_quantization_config(const std::filesystem::path& checkpoint);

/// Who says that the tensors are quantized: "config.json (text_config.quantization_config,
/// quant_method \"modelopt\")". Of parts of a model, too. Empty: nobody. Throws bad_file.
std::string find_quantization_claim(const std::filesystem::path& checkpoint);

}  // namespace nybble::io
