#pragma once

#include <string>

#include "nybble/executor.h"
#include "nybble/matrix.h"
#include "nybble/tensor/quantized_matrix.h"

namespace nybble {

/// What quantizers share.
struct QuantizeOptions {
  std::string tensor_name = "matrix";  ///< named in errors
  /// Weights with Inf or NaN are refused (bad_value) unless the format defines what they become.
  /// true: such a group becomes NaN, as quantizing activations makes it, in every format whose
  /// stored scales can say so (not amxfp4:scale=e4m3, not double quantization: those still refuse).
  bool propagate_nonfinite = false;
};

/// Round to nearest: the format's own scale for each group (its search, where its options ask for
/// one), then the nearest level. Bit for bit the format's reference. The same bytes for any number
/// of threads and any kernel target. Throws bad_shape, bad_value.
QuantizedMatrix quantize_rtn(MatrixView weight, const AnyFormat& format, Executor& executor,
                             const QuantizeOptions& options = {});

}  // namespace nybble
