#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "src/io/layout/layout.h"

/// compressed-tensors' quantization_config, which its three layouts share.
namespace nybble::io {

/// What it says about the layout that it calls `format` ("pack-quantized", ...).
void judge_compressed_tensors(const nlohmann::json& config, const std::string& format,
                              Evidence& evidence);

/// What all config_groups say about `key` of their weights; null where they differ or say nothing.
nlohmann::json weights_option(const nlohmann::json& config, const char* key);

/// Throws unsupported where the config asks for transforms that the runtime must apply around the
/// layers: without them the weights are not those of the model.
void refuse_transform_config(const TensorSource& source);

/// A whole one. `weights` is num_bits, type, strategy, ... of the one group there is.
nlohmann::ordered_json compressed_tensors_config(const std::string& format,
                                                 const nlohmann::ordered_json& weights,
                                                 std::span<const std::string> plain);

}  // namespace nybble::io
