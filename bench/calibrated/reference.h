#pragma once

#include <cstddef>

/// GPTQ and AWQ as their papers' code does them, written plainly in Eigen: what nybble's are timed
/// against.
namespace nybble::bench {

/// GPTQ (IST-DASLab/gptq): H = 2 x^T x, damping 0.01 of the mean, blocks of 128 columns, ranges of
/// 16 levels with a zero point per group, natural order. Replaces `weight` (n x k, row-major) by
/// what its codes stand for. x is tokens x k.
void reference_gptq(float* weight, std::size_t n, std::size_t k, const float* x, std::size_t tokens,
                    std::size_t group);

/// AWQ's scale search (llm-awq's auto_scale): 20 exponents, each with the outputs of all tokens;
/// then rounds with the best. Arguments as above.
void reference_awq(float* weight, std::size_t n, std::size_t k, const float* x, std::size_t tokens,
                   std::size_t group);

}  // namespace nybble::bench
