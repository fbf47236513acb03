#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "nybble/io/sharded_writer.h"
#include "nybble/transform/transform.h"
#include "src/io/layout/layout.h"

namespace nybble {

/// What a layout makes of a layer, without its bytes.
std::vector<TensorToWrite> tensors_of(const io::WrittenLayer& layer);

/// What `layout` makes of any layer of that format and shape with transforms of these kinds:
/// for_layer() gives them a layer's names. Throws what Layout::write throws.
std::vector<TensorToWrite> example_tensors(const io::Layout& layout, const AnyFormat& format,
                                           const std::vector<std::size_t>& shape,
                                           const Transforms& transforms);
std::vector<TensorToWrite> for_layer(std::vector<TensorToWrite> example, const std::string& layer);

/// Whether a run wrote what was planned.
bool same_tensors(const std::vector<TensorToWrite>& a, const std::vector<TensorToWrite>& b);

}  // namespace nybble
