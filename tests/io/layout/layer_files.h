#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "nybble/io/stored_layer.h"
#include "src/io/layout/layout.h"

/// Layers, and the tensors they are written as, for tests of layouts.
namespace nybble::test {

/// Random codes, scales and zero points, padding as it must be: patterns no quantizer writes.
StoredLayer random_layer(const std::string& spec, std::size_t rows, std::size_t cols,
                         std::uint64_t seed);

/// A tensor from elements; the type must be as large as they are.
template <class T>
io::OwnedTensor tensor_from(std::string name, TensorType type, std::vector<std::size_t> shape,
                            const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {std::move(name), type, std::move(shape), {bytes.begin(), bytes.end()}};
}
/// A tensor of `count` zero words.
io::OwnedTensor zero_tensor(std::string name, TensorType type, std::vector<std::size_t> shape);

/// The tensor of that name; the test fails where there is none.
io::OwnedTensor& tensor_of(io::WrittenLayer& written, const std::string& name);
/// The same without the tensor.
io::WrittenLayer without(io::WrittenLayer written, const std::string& name);
/// The same with the tensor in the place of its namesake.
io::WrittenLayer with(io::WrittenLayer written, io::OwnedTensor tensor);

/// Word i of a tensor.
std::uint32_t word_at(const io::OwnedTensor& tensor, std::size_t index);

/// Finds the one module that `layout` sees and reads it.
StoredLayer read_back(const io::Layout& layout, const io::WrittenLayer& written,
                      const nlohmann::json& config = nlohmann::json::object());

/// Equal to the bit: shape, format, codes, scales, zero points, nested scales, permutation.
void expect_same_layer(const StoredLayer& got, const StoredLayer& expected,
                       const std::string& label);
/// The same tensors with the same bytes, in any order.
void expect_same_tensors(const io::WrittenLayer& got, const io::WrittenLayer& expected,
                         const std::string& label);

/// read_back of what `layout` writes is `layer`, and writing that gives the same tensors.
void expect_round_trip(const io::Layout& layout, const StoredLayer& layer,
                       const nlohmann::json& config = nlohmann::json::object());

}  // namespace nybble::test
