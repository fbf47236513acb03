#pragma once

#include "nybble/matrix.h"

namespace nybble {

/// Throws bad_shape if x and y, which `what` names ("linear: x and y"), share an element: columns
/// of one buffer that lie side by side do not. Both views are readable (check_rows).
void check_separate(MatrixView x, MatrixView y, const char* what);

}  // namespace nybble
