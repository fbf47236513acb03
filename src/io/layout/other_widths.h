#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "src/io/layout/layout.h"

/// Layers of mixed checkpoints that are stored as the 4-bit ones are, with other numbers of bits
/// (GPTQModel's dynamic, AutoRound's extra_config, several config_groups of compressed-tensors).
namespace nybble::io {

/// The bits of a code by the shapes of NAME.qweight and what is beside it; 0: 4, or not clear.
std::size_t other_qweight_width(const TensorSource& source, const std::string& module);
/// The same of NAME.weight_packed by NAME.weight_shape, unless the config says that all have 4.
std::size_t other_packed_width(const TensorSource& source, const std::string& module);

/// All such layers: their bits by name. No layout claims their tensors.
std::map<std::string, std::size_t> other_widths(const TensorSource& source);

}  // namespace nybble::io
