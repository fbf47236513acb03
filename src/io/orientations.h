#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "nybble/io/orientation.h"

namespace nybble::io {

/// Shapes of the tensors of a checkpoint by name.
using TensorShapes = std::map<std::string_view, const std::vector<std::size_t>*>;

/// The weights that are not out_in. A bias that fits only one way round decides; then model_type in
/// config.json of models that have Conv1D (GPT-2, OpenAI GPT, ImageGPT, Decision Transformer), by
/// the names these give it. Where neither does and a bias of another layer says in_out: unknown.
/// Throws bad_file where config.json is damaged.
std::map<std::string, Orientation> find_orientations(const std::filesystem::path& checkpoint,
                                                     const TensorShapes& tensors);

/// The shape with its last two axes exchanged.
std::vector<std::size_t> transposed_shape(std::vector<std::size_t> shape);

}  // namespace nybble::io
