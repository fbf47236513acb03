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
  const std::byte* from = nullptr;
  if (kept_.empty()) {
    scratch.bytes.resize(std::max(scratch.bytes.size(), bytes));
    file_->read(*tensor_, begin * row_bytes_, std::span(scratch.bytes.data(), bytes));
    from = scratch.bytes.data();
  } else {
    from = kept_.subspan(begin * row_bytes_, bytes).data();
  }
  scratch.values.resize(std::max(scratch.values.size(), count * cols_));
  io::decode_floats(tensor_->type, from, count * cols_, scratch.values.data());
  return {scratch.values.data(), count, cols_};
}

void FileRows::keep(std::vector<std::byte>& bytes, Executor& executor) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  if (bytes.size() < tensor_->bytes) {
    bytes = {};  // or growing would need both for a moment
    bytes.resize(tensor_->bytes);
  }
  executor.parallel_for((tensor_->bytes + kPiece - 1) / kPiece, [&](std::size_t piece) {
    const std::size_t begin = piece * kPiece;
    const std::size_t count = std::min(kPiece, tensor_->bytes - begin);
    file_->read(*tensor_, begin, std::span(bytes.data() + begin, count));
  });
  kept_ = std::span<const std::byte>(bytes.data(), tensor_->bytes);
}

std::vector<float> FileRows::values(Executor& executor) const {
  std::vector<float> out(rows_ * cols_);
  for_each_row(
      *this, executor, [] { return 0; },
      [&](std::size_t row, const float* x, int /*state*/) {
        std::copy_n(x, cols_, out.data() + row * cols_);
      });
  return out;
}

}  // namespace nybble
