#include "nybble/io/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "nybble/error.h"
#include "nybble/quantize/method.h"
#include "src/io/checked.h"
#include "src/io/layout/packing.h"
#include "src/io/orientations.h"

namespace nybble {

namespace {

using Side = TensorPair::Side;

constexpr std::string_view kWeight = ".weight";

/// What a tensor's layer would be called.
std::string module_name(const std::string& tensor) {
  if (!tensor.ends_with(kWeight)) return tensor;
  return tensor.substr(0, tensor.size() - kWeight.size());
}

template <class T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

bool same_bytes(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

/// The same bits (NaN is no number, but nothing changed), or +0 and -0.
bool equal_values(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return x == y || same_bytes(x, y); });
}

bool same_transforms(const Transforms& a, const Transforms& b) {
  return same_bytes(a.channel_scale.scale, b.channel_scale.scale) &&
         same_bytes(a.permutation.source, b.permutation.source) &&
         a.hadamard.block == b.hadamard.block && same_bytes(a.hadamard.signs, b.hadamard.signs) &&
         a.low_rank.rank == b.low_rank.rank && same_bytes(a.low_rank.a, b.low_rank.a) &&
         same_bytes(a.low_rank.b, b.low_rank.b) &&
         same_bytes(a.sparse.row_start, b.sparse.row_start) &&
         same_bytes(a.sparse.column, b.sparse.column) &&
         same_bytes(a.sparse.value, b.sparse.value) && same_bytes(a.bias, b.bias);
}

bool same_scales(const std::optional<TensorScale>& a, const std::optional<TensorScale>& b) {
  return a.has_value() == b.has_value() && (!a || same_bytes(a->scale, b->scale));
}

/// One side of a pair, read.
struct Read {
  std::optional<StoredLayer> layer;
  std::span<const std::byte> bytes;  ///< where it is no layer
};

Read read(const QuantizedCheckpoint& checkpoint, Side& side) {
  Read out;
  if (side.kind == Side::Kind::layer) {
    out.layer = checkpoint.read(side.name);
    side.what += " " + out.layer->weight.format.info().spec;
  } else {
    out.bytes = checkpoint.bytes(side.name);
  }
  return out;
}

/// Its values; releases the layer.
std::vector<float> values_of(const QuantizedCheckpoint& checkpoint, const Side& side, Read read,
                             Executor& executor) {
  if (!read.layer) return checkpoint.read_f32(side.name);
  Transforms& transforms = read.layer->transforms;
  if (transforms.low_rank.rank != 0 || !transforms.sparse.row_start.empty()) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: low-rank or sparse branches cannot be compared", side.name));
  }
  const QuantizedLayer layer{std::move(read.layer->weight), std::move(transforms), {}, 0};
  return effective_weight(layer, executor);
}

/// Whether a tensor is the layer's weight the other way round; nothing where nobody knows.
std::optional<bool> is_transposed(const Side& tensor, const Side& layer) {
  if (tensor.shape.size() < 2) return false;
  const bool fits = io::transposed_shape(tensor.shape) == layer.shape;
  if (tensor.orientation == Orientation::in_out) return fits;
  if (tensor.shape != layer.shape) return fits;  // as a rule said
  if (tensor.orientation == Orientation::unknown && fits) return std::nullopt;
  return false;
}

/// The values of matrices of these shapes, each transposed.
std::vector<float> transposed(const std::vector<float>& values,
                              const std::vector<std::size_t>& shape) {
  const std::size_t rows = shape[shape.size() - 2];
  const std::size_t cols = shape.back();
  std::vector<float> out(values.size());
  for (std::size_t begin = 0; begin < values.size(); begin += rows * cols) {
    io::transpose({values.data() + begin, rows, cols, cols * sizeof(float)}, sizeof(float),
                  out.data() + begin, rows * sizeof(float));
  }
  return out;
}

double badness(const TensorDifference& difference) {
  if (difference.equal) return -std::numeric_limits<double>::infinity();
  if (!difference.error || std::isnan(difference.error->sqnr_db)) {
    return std::numeric_limits<double>::infinity();
  }
  return -difference.error->sqnr_db;
}

}  // namespace

bool same_stored(const StoredLayer& a, const StoredLayer& b) {
  const QuantizedMatrix& x = a.weight;
  const QuantizedMatrix& y = b.weight;
  return a.shape == b.shape && x.format.info().spec == y.format.info().spec && x.rows == y.rows &&
         x.cols == y.cols && same_bytes(x.codes, y.codes) && same_bytes(x.scales, y.scales) &&
         same_bytes(x.zero_points, y.zero_points) && same_scales(x.tensor, y.tensor) &&
         same_bytes(x.nested_scales, y.nested_scales) &&
         same_bytes(x.nested_offset, y.nested_offset) &&
         same_transforms(a.transforms, b.transforms) && same_scales(a.input_scale, b.input_scale);
}

bool same_weights(const StoredLayer& a, const StoredLayer& b, Executor& executor) {
  // Some formats decode through the largest value beside the tensor scale.
  if (same_stored(a, b) && same_bytes(a.weight.tensor.amax, b.weight.tensor.amax)) return true;
  if (a.shape != b.shape || a.weight.rows != b.weight.rows || a.weight.cols != b.weight.cols ||
      !same_transforms(a.transforms, b.transforms) || !same_scales(a.input_scale, b.input_scale)) {
    return false;
  }
  const auto decoded = [&](const QuantizedMatrix& matrix) {
    std::vector<float> out(matrix.rows * matrix.cols);
    dequantize(matrix, {out.data(), matrix.rows, matrix.cols}, executor);
    return out;
  };
  return same_bytes(decoded(a.weight), decoded(b.weight));
}

std::vector<TensorPair> pair_tensors(const QuantizedCheckpoint& a, const QuantizedCheckpoint& b) {
  // By the name that a layer has or would have; names of other conventions would be brought to one
  // here. A layer and a tensor of one checkpoint may meet under a name ("x" and "x.weight").
  std::map<std::string, std::pair<std::vector<Side>, std::vector<Side>>> sides;
  const auto collect = [&](const QuantizedCheckpoint& checkpoint, auto member) {
    for (const auto& layer : checkpoint.layers()) {
      (sides[layer.name].*member)
          .push_back({Side::Kind::layer, layer.name, layer.layout, layer.shape});
    }
    for (const auto& tensor : checkpoint.tensors()) {
      (sides[module_name(tensor.name)].*member)
          .push_back(
              {Side::Kind::tensor, tensor.name, tensor.type, tensor.shape, tensor.orientation});
    }
  };
  using Sides = std::pair<std::vector<Side>, std::vector<Side>>;
  collect(a, &Sides::first);
  collect(b, &Sides::second);
  std::vector<TensorPair> out;
  const auto add = [&](Side first, Side second) {
    const Side& named =
        second.kind == Side::Kind::layer || first.kind == Side::Kind::missing ? second : first;
    std::string name = named.name;
    out.push_back({std::move(name), std::move(first), std::move(second)});
  };
  for (auto& [module, pair] : sides) {
    auto& [from, to] = pair;
    // The same name first, then whatever is left.
    for (const bool same_name : {true, false}) {
      for (auto side = from.begin(); side != from.end();) {
        const auto partner = std::find_if(to.begin(), to.end(), [&](const Side& other) {
          return !same_name || other.name == side->name;
        });
        if (partner == to.end()) {
          ++side;
          continue;
        }
        add(std::move(*side), std::move(*partner));
        to.erase(partner);
        side = from.erase(side);
      }
    }
    for (Side& side : from) add(std::move(side), {});
    for (Side& side : to) add({}, std::move(side));
  }
  std::sort(out.begin(), out.end(),
            [](const TensorPair& x, const TensorPair& y) { return x.name < y.name; });
  return out;
}

TensorDifference compare(const QuantizedCheckpoint& a, const QuantizedCheckpoint& b,
                         const TensorPair& pair, Executor& executor) {
  TensorDifference out;
  out.pair = pair;
  for (const bool first : {true, false}) {
    if ((first ? pair.a : pair.b).kind != Side::Kind::missing) continue;
    out.reason = first ? "only in the second" : "only in the first";
    return out;
  }
  const bool a_is_layer = pair.a.kind == Side::Kind::layer;
  const bool mixed = a_is_layer != (pair.b.kind == Side::Kind::layer);
  const Side& tensor = a_is_layer ? pair.b : pair.a;
  const std::optional<bool> turn =
      mixed ? is_transposed(tensor, a_is_layer ? pair.a : pair.b) : std::optional(false);
  if (!turn) {
    out.reason =
        "which way round the tensor is stored is unknown, expected model_type in config.json";
    return out;
  }
  if (pair.a.shape != pair.b.shape && !*turn) {
    out.reason =
        fmt::format("shapes {} and {}", io::shape_text(pair.a.shape), io::shape_text(pair.b.shape));
    return out;
  }
  Read from = read(a, out.pair.a);
  Read to = read(b, out.pair.b);
  if (from.layer && to.layer) {
    out.identical = same_stored(*from.layer, *to.layer);
  } else if (!from.layer && !to.layer) {
    out.identical = pair.a.what == pair.b.what && std::equal(from.bytes.begin(), from.bytes.end(),
                                                             to.bytes.begin(), to.bytes.end());
  }
  if (out.identical) {
    out.same_values = true;
    out.equal = true;
    out.error = ErrorMetrics{.sqnr_db = std::numeric_limits<double>::infinity(), .cosine = 1};
    return out;
  }
  std::vector<float> x;
  std::vector<float> y;
  try {
    x = values_of(a, pair.a, std::move(from), executor);
    y = values_of(b, pair.b, std::move(to), executor);
  } catch (const Error& error) {
    // Of integers and of types that are not decoded there are only the bytes to compare.
    if (error.code() != ErrorCode::unsupported) throw;
    out.reason = error.what();
    return out;
  }
  if (*turn) {
    std::vector<float>& values = a_is_layer ? y : x;
    values = transposed(values, tensor.shape);
  }
  out.same_values = same_bytes(x, y);
  out.equal = equal_values(x, y);
  if (x.empty()) return out;
  const bool from_b = mixed && a_is_layer;
  out.error = error_metrics(from_b ? y : x, from_b ? x : y, executor);
  return out;
}

void sort_worst_first(std::vector<TensorDifference>& differences) {
  std::stable_sort(differences.begin(), differences.end(),
                   [](const TensorDifference& x, const TensorDifference& y) {
                     if (badness(x) != badness(y)) return badness(x) > badness(y);
                     return x.pair.name < y.pair.name;
                   });
}

}  // namespace nybble
