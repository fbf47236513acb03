#pragma once

#include "src/io/layout/layout.h"

namespace nybble::io {

/// What of a layer's transforms a layout has a tensor for.
enum class HeldTransforms { none, permutation };

/// What write() begins with. Throws bad_shape where the layer contradicts itself; unsupported,
/// naming the layer, where check() does or the layer has a part that `layout` has no tensor for.
void check_write(const Layout& layout, const StoredLayer& layer, HeldTransforms held);

/// The value of a detail of the layer; empty where there is none.
const std::string& detail(const StoredLayer& layer, const std::string& name);

}  // namespace nybble::io
