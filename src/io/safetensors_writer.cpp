#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>

#include "nybble/error.h"
#include "nybble/io/safetensors.h"
#include "src/io/checked.h"
#include "src/io/safetensors_format.h"
#include "src/io/strict_json.h"

namespace nybble {
namespace {

constexpr std::size_t kHeaderAlignment = 8;

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path) : file_(path) {}

void SafetensorsWriter::add(const std::string& name, TensorType type,
                            std::span<const std::size_t> shape, std::span<const std::byte> bytes) {
  const std::string file_name = file_.target().string();
  const std::string where = fmt::format("{}: tensor {}", file_name, io::quote(name));
  io::json_string(name, file_name + ": tensor name");
  if (name == io::kMetadataKey)
    throw Error(ErrorCode::bad_option, where + ": the name is reserved");
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
  const std::string file_name = file_.target().string();
  std::vector<std::string> entries;
  if (!metadata_.empty()) {
    std::vector<std::string> texts;
    for (const auto& [key, value] : metadata_) {
      texts.push_back(io::json_string(key, file_name) + ":" + io::json_string(value, file_name));
    }
    entries.push_back(fmt::format("\"{}\":{{{}}}", io::kMetadataKey, fmt::join(texts, ",")));
  }
  std::size_t position = 0;
  for (const TensorView& tensor : tensors_) {
    const std::size_t end = position + tensor.bytes.size();
    entries.push_back(fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                                  io::json_string(tensor.name, file_name),
                                  tensor_type_name(tensor.type), fmt::join(tensor.shape, ","),
                                  position, end));
    position = end;
  }
  std::string header = fmt::format("{{{}}}", fmt::join(entries, ","));
  header.resize((header.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  if (header.size() > io::kLargestHeader) {
    throw Error(ErrorCode::bad_option, fmt::format("{}: header of {} bytes, expected at most {}",
                                                   file_name, header.size(), io::kLargestHeader));
  }
  const std::uint64_t length = header.size();
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(std::as_bytes(std::span(header)));
  for (const TensorView& tensor : tensors_) file_.write(tensor.bytes);
  file_.commit();
}

}  // namespace nybble
