#pragma once

namespace nybble {

/// How a checkpoint has the weight of a layer with N outputs and K inputs.
enum class Orientation {
  out_in,  ///< [N, K], as a layer's
  in_out,  ///< [K, N]: GPT-2's Conv1D
  unknown  ///< either: others of its checkpoint are in_out, and nothing tells
};

}  // namespace nybble
