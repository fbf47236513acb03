#include "src/quantize/file_rows.h"

#include <algorithm>

#include "src/io/decode_floats.h"

namespace nybble {

FileRows::FileRows(const TensorFile& file, const TensorInfo& tensor)
    : file_(&file),
      tensor_(&tensor),
      cols_(tensor.shape.back()),
      row_bytes_(cols_ * tensor_type_bits(tensor.type) / 8) {
  rows_ = tensor.bytes / row_bytes_;
}

MatrixView FileRows::read(std::size_t begin, std::size_t count, ReadBuffer& scratch) const {
  const std::size_t bytes = count * row_bytes_;
  scratch.bytes.resize(std::max(scratch.bytes.size(), bytes));
  file_->read(*tensor_, begin * row_bytes_, std::span(scratch.bytes.data(), bytes));
  scratch.values.resize(std::max(scratch.values.size(), count * cols_));
  io::decode_floats(tensor_->type, scratch.bytes.data(), count * cols_, scratch.values.data());
  return {scratch.values.data(), count, cols_};
}

}  // namespace nybble
