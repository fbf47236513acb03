#include "src/io/layout/write_checks.h"

#include <fmt/format.h>

#include "nybble/error.h"
#include "src/io/checked.h"

namespace nybble::io {

namespace {

/// The first part of `layer` that a file of weights, scales and at most a permutation cannot hold;
/// null where there is none.
const char* unheld_part(const StoredLayer& layer, HeldTransforms held) {
  const Transforms& t = layer.transforms;
  if (!t.channel_scale.scale.empty()) return "a channel scale";
  if (!t.permutation.source.empty() && held != HeldTransforms::permutation) return "a permutation";
  if (t.hadamard.block != 0) return "a Hadamard transform";
  if (t.low_rank.rank != 0) return "a low-rank branch";
  if (!t.sparse.row_start.empty()) return "sparse outliers";
  if (!t.bias.empty()) return "a bias among its transforms";
  const TensorScale& tensor = layer.weight.tensor;
  if (tensor.scale != 1 && !layer.weight.format.info().tensor_scale) return "a tensor scale";
  if (layer.input_scale) return "an input scale";
  return nullptr;
}

}  // namespace

void check_write(const Layout& layout, const StoredLayer& layer, HeldTransforms held) {
  const QuantizedMatrix& weight = layer.weight;
  weight.check();
  layer.transforms.check(weight.rows, weight.cols);
  const auto elements = byte_count(layer.shape, 8);
  if (layer.shape.empty() || layer.shape.back() != weight.cols ||
      elements != weight.rows * weight.cols) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("layer {}: shape {} is not that of its {} x {} weight",
                            quote(layer.name), shape_text(layer.shape), weight.rows, weight.cols));
  }
  try {
    layout.check(weight.format, layer.shape);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("layer {}: {}", quote(layer.name), error.what()));
  }
  if (const char* part = unheld_part(layer, held)) {
    throw Error(ErrorCode::unsupported, fmt::format("layer {}: has {}, layout {} has none",
                                                    quote(layer.name), part, layout.name()));
  }
}

const std::string& detail(const StoredLayer& layer, const std::string& name) {
  static const std::string none;
  const auto found = layer.details.find(name);
  return found == layer.details.end() ? none : found->second;
}

}  // namespace nybble::io
