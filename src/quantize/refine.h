#pragma once

#include <cstddef>

#include "nybble/executor.h"
#include "nybble/matrix.h"
#include "src/quantize/hessian.h"
#include "src/quantize/row_codes.h"

namespace nybble {

/// Coordinate descent on the squared output error under `hessian`: up to `passes` times over all
/// columns, each code to the nearest level of the value that is best given all other codes. Never
/// makes a row worse. Returns how many codes changed.
std::size_t descend_codes(MatrixView weight, const OrderedHessian& hessian, int passes,
                          RowCodes& codes, Executor& executor);

/// The scales that fit the codes best under `hessian`, as far as the format can store them: the
/// solution of the rows' normal equations, then each scale in turn. Never makes a row worse. Does
/// nothing to double-quantized scales.
void refit_scales(MatrixView weight, const OrderedHessian& hessian, RowCodes& codes,
                  Executor& executor);

/// weight - what the codes stand for; `out` is rows x cols, in the Hessian's order of columns.
void ordered_errors(MatrixView weight, const OrderedHessian& hessian, const RowCodes& codes,
                    MutableMatrixView out, Executor& executor);

}  // namespace nybble
