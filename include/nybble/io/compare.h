#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "nybble/executor.h"
#include "nybble/io/quantized_checkpoint.h"
#include "nybble/metrics.h"

namespace nybble {

/// A weight of two checkpoints: in each, a quantized layer, another tensor or nothing.
struct TensorPair {
  struct Side {
    enum class Kind { missing, layer, tensor };
    Kind kind = Kind::missing;
    std::string name;  ///< there
    std::string what;  ///< "gptq int4:group=128" (layout; format once it was read), "BF16"
    std::vector<std::size_t> shape;
    Orientation orientation = Orientation::out_in;  ///< of a tensor
  };
  std::string name;  ///< the layer's where there is one, else the tensor's
  Side a, b;
};

/// Pairs what has the same name; a layer NAME is also a tensor NAME.weight. Sorted by name; each
/// layer and tensor of either is in one pair.
std::vector<TensorPair> pair_tensors(const QuantizedCheckpoint& a, const QuantizedCheckpoint& b);

/// How the two of a pair differ.
struct TensorDifference {
  TensorPair pair;
  /// What is stored is the same, bit for bit: of tensors type and bytes, of layers everything in
  /// canonical form, whatever their layouts.
  bool identical = false;
  /// All values are the same, as f32 bit patterns.
  bool same_values = false;
  /// All values are the same, or zeros of either sign: equal as numbers.
  bool equal = false;
  /// From the one that is not quantized, or else from a, to the other. None where there are no
  /// values to compare: `reason` says why.
  std::optional<ErrorMetrics> error = std::nullopt;
  std::string reason;
};

/// Whether two layers are the same bit for bit in canonical form, whatever their names and layouts.
bool same_stored(const StoredLayer& a, const StoredLayer& b);

/// Whether two layers compute the same: weights that decode to the same bits, the same transforms
/// and input scale. What they are stored in, and numbers that no value depends on, may differ.
bool same_weights(const StoredLayer& a, const StoredLayer& b, Executor& executor);

/// Reads both and compares them. A layer's values are its effective weights: transforms are undone.
/// A tensor that is stored [inputs, outputs] is compared with a layer the layer's way round.
/// Throws what reading throws; unsupported for layers with a low-rank or sparse branch.
TensorDifference compare(const QuantizedCheckpoint& a, const QuantizedCheckpoint& b,
                         const TensorPair& pair, Executor& executor);

/// Worst first: what could not be compared, then by rising SQNR, then by name.
void sort_worst_first(std::vector<TensorDifference>& differences);

}  // namespace nybble
