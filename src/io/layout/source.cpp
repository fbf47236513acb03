#include <fmt/format.h>

#include <algorithm>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/layout/layout.h"

namespace nybble::io {

const TensorView& TensorSource::expect(const std::string& name, TensorType type,
                                       std::span<const std::size_t> shape) const {
  const TensorView* tensor = find(name);
  if (tensor == nullptr) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: no tensor {}, expected {} {}", where(), quote(name),
                            tensor_type_name(type), shape_text(shape)));
  }
  if (tensor->type != type ||
      !std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end())) {
    throw Error(ErrorCode::bad_file,
                fmt::format("{}: tensor {} is {} {}, expected {} {}", where(), quote(name),
                            tensor_type_name(*tensor), shape_text(tensor->shape),
                            tensor_type_name(type), shape_text(shape)));
  }
  return *tensor;
}

MemorySource::MemorySource(WrittenLayer written, nlohmann::json config)
    : written_(std::move(written)), config_(std::move(config)) {
  for (const OwnedTensor& tensor : written_.tensors) views_.emplace(tensor.name, tensor.view());
}

const TensorView* MemorySource::find(std::string_view name) const {
  const auto found = views_.find(name);
  return found == views_.end() ? nullptr : &found->second;
}

std::vector<std::string> MemorySource::names() const {
  std::vector<std::string> out;
  for (const OwnedTensor& tensor : written_.tensors) out.push_back(tensor.name);
  return out;
}

const std::string& MemorySource::where() const {
  static const std::string name = "memory";
  return name;
}

}  // namespace nybble::io
