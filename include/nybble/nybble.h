#pragma once

// Everything an engine needs in one include. Formats as types are in nybble/format/*.h, which,
// other than all this, cannot be compiled with -ffast-math.
#include "nybble/attention/kv_cache.h"
#include "nybble/error.h"
#include "nybble/executor.h"
#include "nybble/format/format.h"
#include "nybble/format/registry.h"
#include "nybble/kernels.h"
#include "nybble/linear/grouped_linear.h"
#include "nybble/linear/linear.h"
#include "nybble/matrix.h"
#include "nybble/metrics.h"
#include "nybble/quantize/calibration.h"
#include "nybble/quantize/clip_search.h"
#include "nybble/quantize/method.h"
#include "nybble/quantize/rtn.h"
#include "nybble/tensor/packed_matrix.h"
#include "nybble/tensor/quantized_matrix.h"
#include "nybble/version.h"
