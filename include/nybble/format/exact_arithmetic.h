#pragma once

// For headers that quantize inline: their results are those of references bit for bit, which they
// are not once a compiler may turn x / y into x * (1 / y), change the order of sums and products or
// take NaN for impossible. All other headers may be compiled as one likes: nybble/nybble.h, say,
// whose formats are made by parse_format().
//
// Linked with -ffast-math, GCC also makes the processor take denormal numbers for zeros. That is
// the program's choice for everything in it, the library included.
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(_M_FP_FAST)
#error \
    "nybble's format headers need exact arithmetic: compile this file without -ffast-math \
(-fno-fast-math after it), or include nybble/format/registry.h and make formats by parse_format()"
#endif
