#pragma once

#include "nybble/executor.h"
#include "nybble/format/format.h"
#include "nybble/matrix.h"
#include "nybble/tensor/quantized_matrix.h"

/// The rows of nybble_bench. They come from the registries of formats and targets, so that what is
/// registered is measured. `nybble bench` measures a single layer more carefully: weights out of
/// the caches, beside the limits of the machine.
namespace nybble::bench {

/// linear/<format>/<path>/<target>/m:<rows of x>
void add_linear_rows(Executor& executor);
/// quantize_rtn/<format>, quantize_clip_search/<format>, dequantize/<format>, pack/<format>
void add_quantize_rows(Executor& executor);
/// activations/<int8, bf16 or format>/<target>, one thread
void add_activation_rows();
/// attention/<format>/<tokens or head_dim: groups of values>/<path>/<target>, append/<format>/...,
/// attention/f32: one new token of a layer with grouped queries and 8192 tokens
void add_attention_rows(Executor& executor);
/// grouped/mxfp4/<path>/m:<tokens>, grouped_loop/...: the experts of gpt-oss in one call, or
/// gathered rows and a call per expert
void add_grouped_rows(Executor& executor);

/// What all rows compute with: random normal weights of kOutputs x kInputs.
inline constexpr std::size_t kOutputs = 2048;
inline constexpr std::size_t kInputs = 2048;
MatrixView weights();
/// Those weights, quantized once per format.
const QuantizedMatrix& quantized_weights(const AnyFormat& format, Executor& executor);

}  // namespace nybble::bench
