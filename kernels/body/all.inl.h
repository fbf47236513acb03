// Every body, in the order they build on each other.

#include "kernels/body/quantize.inl.h"
//
#include "kernels/body/activations.inl.h"
//
#include "kernels/body/gemm.inl.h"
//
#include "kernels/body/gemm_a8.inl.h"
//
#include "kernels/body/gemm_float.inl.h"
//
#include "kernels/body/attention.inl.h"
//
#include "kernels/body/dense.inl.h"
