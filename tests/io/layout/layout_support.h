#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "nybble/quantize/rtn.h"
#include "src/io/layout/layout.h"
#include "tests/io/temporary_folder.h"
#include "tests/support/random.h"

namespace nybble::test {

using Shape = std::vector<std::size_t>;
using json = nlohmann::json;

/// Random weights, rounded to nearest.
inline StoredLayer random_layer(const std::string& name, const std::string& spec,
                                const Shape& shape, std::uint64_t seed = 1) {
  std::size_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  const std::vector<float> values = normal_values(rows * shape.back(), seed);
  SerialExecutor executor;
  return {name,
          shape,
          quantize_rtn({values.data(), rows, shape.back()}, parse_format(spec), executor),
          {}};
}

template <class T>
io::OwnedTensor tensor(const std::string& name, TensorType type, Shape shape,
                       const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {name, type, std::move(shape), {bytes.begin(), bytes.end()}};
}

/// The bytes of the floats, not their values.
inline std::vector<std::uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits(values.size());
  if (!bits.empty()) std::memcpy(bits.data(), values.data(), bits.size() * 4);
  return bits;
}

inline void expect_same_matrix(const QuantizedMatrix& got, const QuantizedMatrix& expected) {
  EXPECT_EQ(got.format.info().spec, expected.format.info().spec);
  EXPECT_EQ(got.rows, expected.rows);
  EXPECT_EQ(got.cols, expected.cols);
  EXPECT_EQ(got.padded_cols, expected.padded_cols);
  EXPECT_EQ(got.codes, expected.codes);
  EXPECT_EQ(got.scales, expected.scales);
  EXPECT_EQ(got.zero_points, expected.zero_points);
  EXPECT_EQ(bits_of(got.nested_scales), bits_of(expected.nested_scales));
  EXPECT_EQ(bits_of({got.nested_offset, got.tensor.scale}),
            bits_of({expected.nested_offset, expected.tensor.scale}));
}

inline io::OwnedTensor* find_tensor(io::WrittenLayer& written, const std::string& name) {
  for (io::OwnedTensor& tensor : written.tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

inline void expect_same_tensors(io::WrittenLayer got, const io::WrittenLayer& expected) {
  EXPECT_EQ(got.tensors.size(), expected.tensors.size());
  EXPECT_EQ(got.metadata, expected.metadata);
  for (const io::OwnedTensor& tensor : expected.tensors) {
    const io::OwnedTensor* same = find_tensor(got, tensor.name);
    ASSERT_NE(same, nullptr) << tensor.name;
    EXPECT_EQ(same->type, tensor.type) << tensor.name;
    EXPECT_EQ(same->shape, tensor.shape) << tensor.name;
    EXPECT_EQ(same->bytes, tensor.bytes) << tensor.name;
  }
}

/// The one layer of `written`, as the layout finds and reads it.
inline StoredLayer read_back(const io::Layout& layout, io::WrittenLayer written,
                             json config = json::object()) {
  const io::MemorySource source(std::move(written), std::move(config));
  const std::vector<io::Module> modules = layout.find(source);
  if (modules.size() != 1) {
    throw std::runtime_error("found " + std::to_string(modules.size()) + " layers, expected 1");
  }
  StoredLayer layer = layout.read(source, modules[0]);
  EXPECT_EQ(layer.name, modules[0].name);
  EXPECT_EQ(layer.shape, modules[0].shape);
  EXPECT_EQ(modules[0].tensors.size(), source.names().size());
  return layer;
}

/// Write, read, write: the same layer and the same bytes. Returns what was written.
inline io::WrittenLayer expect_kept(const io::Layout& layout, const StoredLayer& layer,
                                    const json& config = json::object()) {
  layout.check(layer.weight.format, layer.shape);
  io::WrittenLayer written = layout.write(layer);
  const StoredLayer read = read_back(layout, written, config);
  EXPECT_EQ(read.name, layer.name);
  EXPECT_EQ(read.shape, layer.shape);
  expect_same_matrix(read.weight, layer.weight);
  expect_same_tensors(layout.write(read), written);
  return written;
}

/// Reading what `damage` made of the tensor `name` is bad_file, with a message that has all parts.
template <class Damage>
void expect_damage(const io::Layout& layout, io::WrittenLayer written, const std::string& name,
                   const std::vector<std::string>& parts, Damage damage) {
  io::OwnedTensor* tensor = find_tensor(written, name);
  ASSERT_NE(tensor, nullptr) << name;
  damage(*tensor);
  expect_error(ErrorCode::bad_file, parts, [&] { static_cast<void>(read_back(layout, written)); });
}

/// What any layout says to each of its tensors missing, of another type, of another shape.
/// `first` are those by which it is found: without them there is no layer.
inline void expect_tensors_are_checked(const io::Layout& layout, const io::WrittenLayer& written,
                                       const std::vector<std::string>& first,
                                       const std::vector<std::string>& optional) {
  const auto listed = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const io::OwnedTensor& tensor : written.tensors) {
    SCOPED_TRACE(tensor.name);
    if (listed(first, tensor.name)) continue;
    expect_damage(layout, written, tensor.name, {"\"" + tensor.name + "\"", "expected"},
                  [](io::OwnedTensor& t) {  // of another type that takes as many bytes
                    t.shape.insert(t.shape.begin(), t.bytes.size());
                    for (std::size_t i = 1; i < t.shape.size(); ++i) t.shape[i] = 1;
                    t.type = TensorType::i8;
                  });
    expect_damage(layout, written, tensor.name, {"\"" + tensor.name + "\"", "expected"},
                  [](io::OwnedTensor& t) {
                    if (t.shape.empty()) t.shape = {1};
                    t.shape[0] *= 2;
                    t.bytes.resize(t.bytes.size() * 2);
                  });
    if (listed(optional, tensor.name)) continue;
    expect_damage(layout, written, tensor.name, {"\"" + tensor.name + "\"", "expected"},
                  [](io::OwnedTensor& t) { t.name += "_gone"; });
  }
}

}  // namespace nybble::test
