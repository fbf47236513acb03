#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nybble/tensor/quantized_matrix.h"
#include "nybble/transform/transform.h"

namespace nybble {

/// A 4-bit weight as files hold it, whoever wrote them: what every checkpoint layout is read to and
/// written from. Reading, then writing in the same layout gives the same bytes.
struct StoredLayer {
  std::string name;                ///< of the module: "model.layers.0.mlp.up_proj", "blk.0.ffn_up"
  std::vector<std::size_t> shape;  ///< [N, K], or with experts before them: weight.rows is then E*N
  QuantizedMatrix weight;
  /// What the layer's input goes through: a permutation (GPTQ's act-order), a channel scale, a
  /// rotation. The bias is a tensor of its own and never in here.
  Transforms transforms;
  /// Of activations that are NVFP4, too: their tensor scale, chosen when the file was made.
  std::optional<TensorScale> input_scale = std::nullopt;
  /// What the file says beside that and no value depends on, by layout and name ("gptq.g_idx"): the
  /// same layout writes it again, others ignore it.
  std::map<std::string, std::string> details = {};
};

}  // namespace nybble
