#include "nybble/io/safetensors.h"

#include <fmt/format.h>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/safetensors_format.h"
#include "src/io/safetensors_header.h"

namespace nybble {

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : name_(path.string()), mapping_(path) {
  read(mapping_.bytes());
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  SafetensorsFile file;
  file.name_ = name;
  file.read(bytes);
  return file;
}

void SafetensorsFile::read(std::span<const std::byte> bytes) {
  const std::size_t length = io::read_header_length(bytes, bytes.size(), name_);
  io::SafetensorsHeader header =
      io::parse_header(bytes.subspan(io::kLengthBytes, length), bytes.size(), name_);
  metadata_ = std::move(header.metadata);
  for (TensorInfo& tensor : header.tensors) {
    tensors_.push_back({std::move(tensor.name), tensor.type, std::move(tensor.shape),
                        bytes.subspan(tensor.offset, tensor.bytes), std::move(tensor.dtype)});
  }
  for (const TensorView& tensor : tensors_) index_.emplace(tensor.name, &tensor);
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : found->second;
}

const TensorView& SafetensorsFile::at(std::string_view name) const {
  if (const TensorView* const tensor = find(name)) return *tensor;
  std::vector<std::string_view> names;
  for (const TensorView& tensor : tensors_) names.push_back(tensor.name);
  throw Error(ErrorCode::bad_option, fmt::format("{}: no tensor {}, {}", name_, io::quote(name),
                                                 io::name_hint(name, names)));
}

}  // namespace nybble
