#pragma once

#include <cstddef>

#include "nybble/executor.h"
#include "nybble/matrix.h"

/// Dense f32 linear algebra on this CPU's kernels, for the calibrated quantizers. Callers check
/// shapes; results do not depend on the executor.
namespace nybble::linalg {

/// What becomes of a product: c = a b, c += a b, c -= a b.
enum class Update { assign, add, subtract };

/// Where a product is needed, where a factor is not zero.
struct Shape {
  bool lower_only = false;  ///< of c, only what is on or below the diagonal must be right
  bool upper_only = false;  ///< ... on or above
  bool b_lower = false;     ///< b is lower triangular: rows above a column's diagonal are skipped
};

/// c (rows x cols) = a (rows x depth) b (depth x cols). c overlaps neither a nor b.
void multiply(MatrixView a, MatrixView b, MutableMatrixView c, Update update, Executor& executor,
              Shape shape = {});

/// c (rows x cols) = a (rows x depth) b^T, b being cols x depth.
void multiply_transposed(MatrixView a, MatrixView b, MutableMatrixView c, Update update,
                         Executor& executor, Shape shape = {});

/// The upper triangular U with h^-1 = U^T U, which GPTQ walks along; written over h (n x n,
/// symmetric positive definite; only the lower triangle is read), zeros below the diagonal. false
/// if h is not positive definite in f32, in which case h is as it was.
bool invert_to_upper_factor(MutableMatrixView h, Executor& executor);

/// Copies what is below the diagonal above it.
void mirror_lower(MutableMatrixView square, Executor& executor);

/// out (cols x rows) = in^T.
void transpose(MatrixView in, MutableMatrixView out, Executor& executor);

}  // namespace nybble::linalg
