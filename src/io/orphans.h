#pragma once

#include <vector>

#include "nybble/io/quantized_checkpoint.h"
#include "nybble/io/validate.h"

namespace nybble::io {

/// Tensors that only quantized layers have (qzeros, weight_packed, absmax, ...) and that are in no
/// layer found. An error where one is missing beside it, a warning where the layer is all there, in
/// a layout that is not known here.
std::vector<Finding> find_orphans(const QuantizedCheckpoint& checkpoint);

/// Tensors beside layers that contradict them: a bias of another length (error), a weight of the
/// same name (warning).
std::vector<Finding> find_misfits(const QuantizedCheckpoint& checkpoint);

}  // namespace nybble::io
