#pragma once

#include <string>

#include "nybble/io/safetensors.h"
#include "nybble/io/stored_layer.h"

namespace nybble {

/// Adds the tensors and the metadata of a layer, in a layout of layout_names(), to a file that is
/// being written; their bytes are the writer's own. What config.json says of a layout is up to the
/// caller. Throws bad_option for an unknown layout, unsupported naming the layer where the layout
/// cannot hold it, and what SafetensorsWriter throws.
void add_layer(SafetensorsWriter& writer, const StoredLayer& layer, const std::string& layout);

}  // namespace nybble
