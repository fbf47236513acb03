#include "tests/io/layout/layer_files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <stdexcept>

#include "nybble/format/registry.h"
#include "src/io/checked.h"
#include "tests/support/random.h"

namespace nybble::test {

StoredLayer random_layer(const std::string& spec, std::size_t rows, std::size_t cols,
                         std::uint64_t seed) {
  Random random(seed);
  QuantizedMatrix weight(parse_format(spec), rows, cols);
  const auto fill = [&](std::vector<std::uint8_t>& bytes, std::size_t values) {
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random.index(values));
  };
  fill(weight.codes, 256);
  fill(weight.scales, 256);
  fill(weight.zero_points, 16);
  for (float& scale : weight.nested_scales) scale = random.normal();
  if (!weight.nested_scales.empty()) weight.nested_offset = random.normal();
  const AnyFormat& format = weight.format;
  for (std::size_t row = 0; row < rows; ++row) {
    std::uint8_t padding = 0;
    for (std::uint8_t code = 0; code < 16; ++code) {
      if (format.info().levels[code] == 0) padding = code;
    }
    if (!weight.zero_points.empty()) padding = weight.zero_points[(row + 1) * weight.groups - 1];
    for (std::size_t k = cols; k < weight.padded_cols; ++k) {
      std::uint8_t& byte = weight.codes[(row * weight.padded_cols + k) / 2];
      byte = static_cast<std::uint8_t>(k % 2 == 0 ? (byte & 0xf0) | padding
                                                  : (byte & 0x0f) | padding << 4);
    }
  }
  return {"model.layers.0.mlp.up_proj", {rows, cols}, std::move(weight), {}};
}

io::OwnedTensor zero_tensor(std::string name, TensorType type, std::vector<std::size_t> shape) {
  const std::size_t bytes = io::byte_count(shape, tensor_type_bits(type)).value();
  return {std::move(name), type, std::move(shape), std::vector<std::byte>(bytes)};
}

io::OwnedTensor& tensor_of(io::WrittenLayer& written, const std::string& name) {
  for (io::OwnedTensor& tensor : written.tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

io::WrittenLayer without(io::WrittenLayer written, const std::string& name) {
  const io::OwnedTensor& tensor = tensor_of(written, name);
  written.tensors.erase(written.tensors.begin() + (&tensor - written.tensors.data()));
  return written;
}

io::WrittenLayer with(io::WrittenLayer written, io::OwnedTensor tensor) {
  tensor_of(written, tensor.name) = std::move(tensor);
  return written;
}

std::uint32_t word_at(const io::OwnedTensor& tensor, std::size_t index) {
  std::uint32_t word = 0;
  std::memcpy(&word, tensor.bytes.data() + index * sizeof word, sizeof word);
  return word;
}

StoredLayer read_back(const io::Layout& layout, const io::WrittenLayer& written,
                      const nlohmann::json& config) {
  const io::MemorySource source(written, config);
  const std::vector<io::Module> modules = layout.find(source);
  if (modules.size() != 1) throw std::runtime_error("expected one module");
  EXPECT_EQ(modules[0].tensors.size(), written.tensors.size());
  StoredLayer layer = layout.read(source, modules[0]);
  EXPECT_EQ(layer.shape, modules[0].shape);
  EXPECT_EQ(layer.name, modules[0].name);
  layer.weight.check();
  return layer;
}

void expect_same_layer(const StoredLayer& got, const StoredLayer& expected,
                       const std::string& label) {
  const QuantizedMatrix& a = got.weight;
  const QuantizedMatrix& b = expected.weight;
  EXPECT_EQ(got.name, expected.name) << label;
  EXPECT_EQ(got.shape, expected.shape) << label;
  EXPECT_EQ(a.format.info().spec, b.format.info().spec) << label;
  EXPECT_EQ(a.rows, b.rows) << label;
  EXPECT_EQ(a.cols, b.cols) << label;
  EXPECT_TRUE(a.codes == b.codes) << label << ": codes differ";
  EXPECT_TRUE(a.scales == b.scales) << label << ": scales differ";
  EXPECT_TRUE(a.zero_points == b.zero_points) << label << ": zero points differ";
  EXPECT_EQ(a.nested_scales, b.nested_scales) << label;
  EXPECT_EQ(std::bit_cast<std::uint32_t>(a.nested_offset),
            std::bit_cast<std::uint32_t>(b.nested_offset))
      << label;
  EXPECT_EQ(got.transforms.permutation.source, expected.transforms.permutation.source) << label;
}

void expect_same_tensors(const io::WrittenLayer& got, const io::WrittenLayer& expected,
                         const std::string& label) {
  std::map<std::string, const io::OwnedTensor*> by_name;
  for (const io::OwnedTensor& tensor : got.tensors) by_name[tensor.name] = &tensor;
  EXPECT_EQ(by_name.size(), got.tensors.size()) << label << ": a name twice";
  EXPECT_EQ(got.tensors.size(), expected.tensors.size()) << label;
  for (const io::OwnedTensor& tensor : expected.tensors) {
    const auto found = by_name.find(tensor.name);
    ASSERT_NE(found, by_name.end()) << label << ": no " << tensor.name;
    EXPECT_EQ(found->second->type, tensor.type) << label << ' ' << tensor.name;
    EXPECT_EQ(found->second->shape, tensor.shape) << label << ' ' << tensor.name;
    EXPECT_TRUE(found->second->bytes == tensor.bytes)
        << label << ": bytes of " << tensor.name << " differ";
  }
  EXPECT_EQ(got.metadata, expected.metadata) << label;
}

void expect_round_trip(const io::Layout& layout, const StoredLayer& layer,
                       const nlohmann::json& config) {
  const std::string label =
      layout.name() + ' ' + layer.weight.format.info().spec + ' ' + io::shape_text(layer.shape);
  const io::WrittenLayer written = layout.write(layer);
  for (const io::OwnedTensor& tensor : written.tensors) {
    EXPECT_EQ(io::byte_count(tensor.shape, tensor_type_bits(tensor.type)), tensor.bytes.size())
        << label << ' ' << tensor.name;
  }
  const StoredLayer read = read_back(layout, written, config);
  expect_same_layer(read, layer, label);
  expect_same_tensors(layout.write(read), written, label);
}

}  // namespace nybble::test
