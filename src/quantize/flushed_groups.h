#pragma once

#include <string>

#include "src/quantize/weight_rows.h"

namespace nybble {

/// Throws bad_value where `format`, with this tensor scale, would make zeros of weights that
/// matter: of whole groups, or their signs, whose scales are too small for the type that holds
/// them. Names the largest such weight and, where there is one, the format that holds it.
///
/// A few such groups beside much larger ones are nothing and stay allowed: together they may hold
/// 1/10000 of the tensor's sum of squares, a hundredth of what rounding to 4 bits leaves as error.
/// `signal` is that sum, as far as f32 holds it; weights are only read where it leaves a doubt.
void refuse_flushed(const WeightRows& weight, const AnyFormat& format, TensorScale tensor,
                    double signal, const std::string& name, Executor& executor);

}  // namespace nybble
