#include <fmt/format.h>

#include "nybble/error.h"
#include "nybble/io/safetensors.h"
#include "src/io/checked.h"
#include "src/io/safetensors_header.h"
#include "src/io/strict_json.h"

namespace nybble {

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path) : file_(path) {}

void SafetensorsWriter::add(const std::string& name, TensorType type,
                            std::span<const std::size_t> shape, std::span<const std::byte> bytes) {
  const std::string file_name = file_.target().string();
  const std::string where = fmt::format("{}: tensor {}", file_name, io::quote(name));
  io::check_tensor_name(name, file_name);
  const auto expected = io::byte_count(shape, tensor_type_bits(type));
  if (expected != bytes.size()) {
    throw Error(ErrorCode::bad_shape,
                fmt::format("{}: {} bytes do not fit shape {} of {}", where, bytes.size(),
                            io::shape_text(shape), tensor_type_name(type)));
  }
  if (!names_.insert(name).second) {
    throw Error(ErrorCode::bad_option, where + ": added twice, expected each name once");
  }
  tensors_.push_back({name, type, {shape.begin(), shape.end()}, bytes});
}

void SafetensorsWriter::add_owned(const std::string& name, TensorType type,
                                  std::span<const std::size_t> shape,
                                  std::vector<std::byte> bytes) {
  add(name, type, shape, bytes);
  owned_.push_back(std::move(bytes));
}

void SafetensorsWriter::set_metadata(const std::string& key, const std::string& value) {
  const std::string where = file_.target().string() + ": metadata";
  io::json_string(key, where);
  io::json_string(value, where);
  metadata_[key] = value;
}

void SafetensorsWriter::finish() {
  std::vector<TensorInfo> tensors;
  for (const TensorView& tensor : tensors_) {
    tensors.push_back({tensor.name, tensor.type, tensor.shape, 0, tensor.bytes.size()});
  }
  const std::string header = io::write_header(tensors, metadata_, file_.target().string());
  file_.write(std::as_bytes(std::span(header)));
  for (const TensorView& tensor : tensors_) file_.write(tensor.bytes);
  file_.commit();
}

}  // namespace nybble
