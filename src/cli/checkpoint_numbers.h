#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "nybble/io/quantized_checkpoint.h"
#include "nybble/tensor/statistics.h"
#include "output.h"

/// What `inspect` and `report` count in the layers and tensors of a checkpoint.
namespace nybble::cli {

/// `path` and `--layout`.
struct CheckpointArguments {
  std::string path, layout;
};
void add_checkpoint_arguments(CLI::App& command, CheckpointArguments& options);

struct LayerNumbers {
  QuantizedCheckpoint::LayerEntry entry;
  FormatInfo format;
  double bits_per_weight = 0;
  std::optional<float> tensor_scale;  ///< only of two-level formats
  std::vector<std::string> transforms;
  QuantizedStatistics statistics;
};
LayerNumbers measure(const StoredLayer& layer, const QuantizedCheckpoint::LayerEntry& entry,
                     Executor& executor);

struct TensorNumbers {
  QuantizedCheckpoint::TensorEntry entry;
  std::optional<ValueStatistics> values;  ///< none: of a type that has no f32 values
};
TensorNumbers measure(const QuantizedCheckpoint& checkpoint,
                      const QuantizedCheckpoint::TensorEntry& entry, Executor& executor);

/// All of them together.
struct CheckpointTotals {
  std::size_t layers = 0, weights = 0, tensors = 0, values = 0;
  double layer_bits = 0;  ///< of all weights in layers
  std::size_t nan = 0, inf = 0;
  std::size_t file_bytes = 0;

  void add(const LayerNumbers& layer);
  void add(const TensorNumbers& tensor);
  [[nodiscard]] double bits_per_weight() const;
};

/// Bytes of the files it is in.
std::size_t file_bytes(const QuantizedCheckpoint& checkpoint);

Json json_of(const ValueStatistics& values);
Json json_of(const LayerNumbers& layer);
Json json_of(const TensorNumbers& tensor);
Json json_of(const CheckpointTotals& totals);

}  // namespace nybble::cli
