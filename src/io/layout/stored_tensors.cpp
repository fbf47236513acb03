#include "src/io/layout/stored_tensors.h"

#include <fmt/format.h>

#include <cmath>

#include "nybble/error.h"
#include "src/io/checked.h"

namespace nybble::io {

std::optional<std::string> module_of(std::string_view tensor, std::string_view suffix) {
  if (tensor.size() <= suffix.size() || !tensor.ends_with(suffix)) return std::nullopt;
  return std::string(tensor.substr(0, tensor.size() - suffix.size()));
}

std::vector<std::string> existing_tensors(const TensorSource& source, const std::string& module,
                                          std::initializer_list<const char*> suffixes) {
  std::vector<std::string> out;
  for (const char* suffix : suffixes) {
    if (source.find(module + suffix) != nullptr) out.push_back(module + suffix);
  }
  return out;
}

Error bad_tensor(const TensorSource& source, const std::string& tensor, const std::string& found) {
  return {ErrorCode::bad_file,
          fmt::format("{}: tensor {} {}", source.where(), quote(tensor), found)};
}

const TensorView& expect_any(const TensorSource& source, const std::string& name,
                             std::initializer_list<TensorType> types,
                             std::span<const std::size_t> shape) {
  const TensorView* tensor = source.find(name);
  const bool listed =
      tensor != nullptr && std::find(types.begin(), types.end(), tensor->type) != types.end();
  return source.expect(name, listed ? tensor->type : *types.begin(), shape);
}

const TensorView& expect_rank(const TensorSource& source, const std::string& name, TensorType type,
                              std::size_t least_rank, std::size_t most_rank) {
  const TensorView* tensor = source.find(name);
  const std::string expected =
      fmt::format("expected {} with {} dimensions", tensor_type_name(type),
                  least_rank == most_rank ? fmt::format("{}", least_rank)
                                          : fmt::format("{} or {}", least_rank, most_rank));
  if (tensor == nullptr) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: no tensor {}, {}", source.where(), quote(name), expected));
  }
  if (tensor->type != type || !has_rank(*tensor, least_rank, most_rank)) {
    throw bad_tensor(source, name,
                     fmt::format("is {} {}, {}", tensor_type_name(*tensor),
                                 shape_text(tensor->shape), expected));
  }
  return *tensor;
}

float expect_positive(const TensorSource& source, const std::string& name,
                      std::span<const std::size_t> shape) {
  const float value = elements<float>(source.expect(name, TensorType::f32, shape))[0];
  if (!std::isfinite(value) || !(value > 0)) {
    throw bad_tensor(source, name, fmt::format("is {}, expected a finite number above 0", value));
  }
  return value;
}

std::vector<std::int64_t> index_elements(const TensorView& tensor) {
  if (tensor.type == TensorType::i64) return elements<std::int64_t>(tensor);
  const auto narrow = elements<std::int32_t>(tensor);
  return {narrow.begin(), narrow.end()};
}

OwnedTensor index_tensor(std::string name, const std::string& type,
                         const std::vector<std::int64_t>& index) {
  if (type == kWideIndex) {
    return owned_tensor(std::move(name), TensorType::i64, {index.size()}, index);
  }
  std::vector<std::int32_t> narrow;
  for (const std::int64_t group : index) narrow.push_back(static_cast<std::int32_t>(group));
  return owned_tensor(std::move(name), TensorType::i32, {narrow.size()}, narrow);
}

void RefusingLayout::check(const AnyFormat& format, std::span<const std::size_t> shape) const {
  const std::string why = refusal(format, shape);
  if (!why.empty()) throw Error(ErrorCode::unsupported, fmt::format("layout {}: {}", name(), why));
}

void check_stored_shape(const StoredLayer& layer) {
  layer.weight.check();
  layer.transforms.check(layer.weight.rows, layer.weight.cols);
  std::size_t rows = layer.shape.size() < 2 ? 0 : 1;
  for (std::size_t i = 0; i + 1 < layer.shape.size(); ++i) {
    // Divided, not multiplied: nothing wraps.
    const std::size_t dimension = layer.shape[i];
    rows = dimension == 0 || rows > layer.weight.rows / dimension ? 0 : rows * dimension;
  }
  if (rows == layer.weight.rows && layer.shape.back() == layer.weight.cols) return;
  throw Error(ErrorCode::bad_shape,
              fmt::format("{}: shape {} of a weight of {} x {}", layer.name,
                          shape_text(layer.shape), layer.weight.rows, layer.weight.cols));
}

void check_write(const Layout& layout, const StoredLayer& layer, Holds holds) {
  check_stored_shape(layer);
  const std::string where = fmt::format("layer {}", quote(layer.name));
  try {
    layout.check(layer.weight.format, layer.shape);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", where, error.what()));
  }
  const Transforms& t = layer.transforms;
  const auto refuse = [&](bool has, const char* what) {
    if (!has) return;
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: layout {} has no place for {}", where, layout.name(), what));
  };
  refuse(!t.channel_scale.scale.empty(), "a channel scale of the input");
  refuse(t.hadamard.block != 0, "a rotation of the input");
  refuse(!t.permutation.source.empty() && !holds.permutation, "a permutation of the input");
  refuse(t.low_rank.rank != 0, "a low-rank branch");
  refuse(!t.sparse.row_start.empty(), "sparse outliers");
  refuse(!t.bias.empty(), "a bias, which is a tensor of its own");
  refuse(layer.weight.tensor.scale != 1 && !layer.weight.format.info().tensor_scale,
         "a tensor scale");
  refuse(layer.input_scale.has_value() && !holds.input_scale, "a tensor scale of the input");
}

const std::string& detail(const StoredLayer& layer, const std::string& name) {
  static const std::string none;
  const auto found = layer.details.find(name);
  return found == layer.details.end() ? none : found->second;
}

}  // namespace nybble::io
