#include "src/quantize/transposed_rows.h"

#include <algorithm>

#include "src/io/decode_floats.h"
#include "src/io/layout/packing.h"

namespace nybble {

TransposedRows::TransposedRows(const TensorFile& file, const TensorInfo& tensor)
    : file_(&file),
      tensor_(&tensor),
      inputs_(tensor.shape[tensor.shape.size() - 2]),
      outputs_(tensor.shape.back()) {
  rows_ = tensor.bytes * 8 / tensor_type_bits(tensor.type) / inputs_;
}

std::size_t TransposedRows::rows_at_once() const {
  constexpr std::size_t kValues = std::size_t{1} << 20;
  return std::max<std::size_t>(1, kValues / inputs_);
}

MatrixView TransposedRows::read(std::size_t begin, std::size_t count, ReadBuffer& scratch) const {
  const std::size_t size = tensor_type_bits(tensor_->type) / 8;
  const std::size_t values = count * inputs_;
  scratch.bytes.resize(std::max(scratch.bytes.size(), values * size));
  scratch.values.resize(std::max(scratch.values.size(), values * 2));
  float* const rows = scratch.values.data();
  float* const pieces = rows + values;  // as the file has them
  for (std::size_t done = 0; done < count;) {
    // Of one matrix: an expert's columns end where the next one's begin.
    const std::size_t matrix = (begin + done) / outputs_;
    const std::size_t column = (begin + done) % outputs_;
    const std::size_t columns = std::min(count - done, outputs_ - column);
    for (std::size_t k = 0; k < inputs_; ++k) {
      const std::size_t first = (matrix * inputs_ + k) * outputs_ + column;
      file_->read(*tensor_, first * size,
                  std::span(scratch.bytes.data() + k * columns * size, columns * size));
    }
    io::decode_floats(tensor_->type, scratch.bytes.data(), columns * inputs_, pieces);
    io::transpose({pieces, inputs_, columns, columns * sizeof(float)}, sizeof(float),
                  rows + done * inputs_, inputs_ * sizeof(float));
    done += columns;
  }
  return {rows, count, inputs_};
}

}  // namespace nybble
