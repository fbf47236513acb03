#pragma once

#include <cstddef>

#include "nybble/io/tensor_file.h"
#include "src/quantize/weight_rows.h"

namespace nybble {

/// A tensor [..., inputs, outputs] of floats in a file as rows of inputs, one an output: as many
/// columns of it as are asked for are in memory.
class TransposedRows final : public WeightRows {
 public:
  /// As FileRows.
  TransposedRows(const TensorFile& file, const TensorInfo& tensor);
  [[nodiscard]] std::size_t rows() const override { return rows_; }
  [[nodiscard]] std::size_t cols() const override { return inputs_; }
  MatrixView read(std::size_t begin, std::size_t count, ReadBuffer& scratch) const override;
  /// Each is a piece of every row of the file: more at once, for longer pieces.
  [[nodiscard]] std::size_t rows_at_once() const override;

 private:
  const TensorFile* file_;
  const TensorInfo* tensor_;
  std::size_t inputs_, outputs_, rows_;
};

}  // namespace nybble
