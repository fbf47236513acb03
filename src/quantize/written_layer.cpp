#include "src/quantize/written_layer.h"

#include <algorithm>

namespace nybble {

namespace {

/// Stands for the name of any layer.
constexpr std::string_view kAnyLayer = "@layer@";

std::string renamed(std::string text, const std::string& layer) {
  for (std::size_t at = text.find(kAnyLayer); at != std::string::npos;
       at = text.find(kAnyLayer, at + layer.size())) {
    text.replace(at, kAnyLayer.size(), layer);
  }
  return text;
}

}  // namespace

std::vector<TensorToWrite> tensors_of(const io::WrittenLayer& layer) {
  std::vector<TensorToWrite> out;
  for (const io::OwnedTensor& tensor : layer.tensors) {
    out.push_back({tensor.name, tensor.type, tensor.shape, {}});
  }
  if (!out.empty()) out[0].metadata = layer.metadata;
  return out;
}

std::vector<TensorToWrite> example_tensors(const io::Layout& layout, const AnyFormat& format,
                                           const std::vector<std::size_t>& shape,
                                           const Transforms& transforms) {
  std::size_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  StoredLayer layer{std::string(kAnyLayer), shape, QuantizedMatrix(format, rows, shape.back()),
                    transforms};
  layer.weight.tensor = format.tensor_scale(0);  // whether it comes with a divisor
  return tensors_of(layout.write(layer));
}

std::vector<TensorToWrite> for_layer(std::vector<TensorToWrite> example, const std::string& layer) {
  for (TensorToWrite& tensor : example) {
    tensor.name = renamed(std::move(tensor.name), layer);
    std::map<std::string, std::string> metadata;
    for (const auto& [key, value] : tensor.metadata) {
      metadata.emplace(renamed(key, layer), renamed(value, layer));
    }
    tensor.metadata = std::move(metadata);
  }
  return example;
}

bool same_tensors(const std::vector<TensorToWrite>& a, const std::vector<TensorToWrite>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const TensorToWrite& x, const TensorToWrite& y) {
                      return x.name == y.name && x.type == y.type && x.shape == y.shape &&
                             x.metadata == y.metadata;
                    });
}

}  // namespace nybble
