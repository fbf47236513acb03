#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace nybble::peers {

/// Weights as MatMulNBits stores them: unsigned codes, zero point 8, two to a byte with the first
/// in the low half; one f32 scale per block of K.
struct BlockedWeights {
  std::span<const std::uint8_t> codes;  ///< N x K / block x block / 2
  std::span<const float> scales;        ///< N x K / block
  std::size_t rows = 0;                 ///< N
  std::size_t cols = 0;                 ///< K
  std::size_t block = 32;
};

/// An ONNX file, in memory, with the single node y = MatMulNBits(x): x is "x" (m x K), y is "y"
/// (m x N), m free.
std::string make_onnx_model(const BlockedWeights& weights, int accuracy_level);

}  // namespace nybble::peers
