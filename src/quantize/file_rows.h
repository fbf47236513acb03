#pragma once

#include <cstddef>

#include "nybble/io/tensor_file.h"
#include "src/quantize/weight_rows.h"

namespace nybble {

/// A tensor of floats in a file as rows of its last axis: only the rows asked for are in memory.
class FileRows final : public WeightRows {
 public:
  /// The tensor must be of a type and shape that is_float() and matrix_shape() accept; file and
  /// tensor must outlive the result.
  FileRows(const TensorFile& file, const TensorInfo& tensor);
  [[nodiscard]] std::size_t rows() const override { return rows_; }
  [[nodiscard]] std::size_t cols() const override { return cols_; }
  MatrixView read(std::size_t begin, std::size_t count, ReadBuffer& scratch) const override;

 private:
  const TensorFile* file_;
  const TensorInfo* tensor_;
  std::size_t rows_, cols_, row_bytes_;
};

}  // namespace nybble
