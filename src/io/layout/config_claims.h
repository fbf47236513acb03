#pragma once

#include "src/io/layout/layout.h"

namespace nybble::io {

/// Throws bad_file, naming the layer and both readings, where the source's config says something
/// else of its layers than the layer's tensors do: bits, group size, symmetry, type of codes, or
/// that it was left alone. Configs that tell layers apart (GPTQModel's dynamic) are not asked.
void check_config_claims(const TensorSource& source, const StoredLayer& layer);

/// Whether some layers have settings of their own: GPTQModel's dynamic, where "-:" only leaves
/// modules alone, and AutoRound's extra_config.
bool tells_apart(const nlohmann::json& config);

/// `config` completed by `other`, what another file says of the same tensors (quantize_config.json
/// beside config.json). Throws bad_file, naming both, where they contradict each other in what
/// decides how tensors are read.
nlohmann::json merge_configs(const nlohmann::json& config, const std::string& config_name,
                             const nlohmann::json& other, const std::string& other_name);

}  // namespace nybble::io
