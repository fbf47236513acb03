#pragma once

#include <cstddef>
#include <vector>

#include "nybble/executor.h"
#include "nybble/matrix.h"
#include "src/quantize/hessian.h"
#include "src/quantize/row_codes.h"

namespace nybble {

/// Makes rounded rows better, step by step, and keeps (W - Q) H up to date meanwhile: what every
/// step needs and what takes longest to compute. Weight, Hessian and codes must outlive it.
class Refiner {
 public:
  Refiner(MatrixView weight, const OrderedHessian& hessian, RowCodes& codes, Executor& executor);

  /// Coordinate descent on the squared output error under the Hessian: up to `passes` times over
  /// all columns, each code to the nearest level of the value that is best given all other codes.
  /// Never makes a row worse. Returns how many codes changed.
  std::size_t descend(int passes);

  /// The scales that fit the codes best, as far as the format can store them: the solution of the
  /// rows' normal equations, then each scale in turn. Never makes a row worse. Does nothing to
  /// double-quantized scales.
  void refit_scales();

 private:
  [[nodiscard]] MatrixView h() const;
  std::size_t descend_block(std::size_t begin, std::size_t size);

  MatrixView weight_;
  const OrderedHessian& hessian_;
  RowCodes& codes_;
  Executor& executor_;
  std::vector<float> residual_;  ///< (W - Q) H, rows x K in the Hessian's order
  std::vector<float> changes_;   ///< scratch of the same size
};

/// weight - what the codes stand for; `out` is rows x cols, in the Hessian's order of columns.
void ordered_errors(MatrixView weight, const OrderedHessian& hessian, const RowCodes& codes,
                    MutableMatrixView out, Executor& executor);

}  // namespace nybble
