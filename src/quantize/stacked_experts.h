#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "nybble/io/tensor_file.h"

namespace nybble {

/// Experts of a mixture that are one tensor, "experts.down_proj" of [E, N, K] or, as some models
/// (gpt-oss, Llama 4) keep them, of [E, K, N]. Which it is, names do not say: one of the axes is
/// the model's hidden size, the input of some projections and the output of others.
class StackedExperts {
 public:
  /// Of the model in `source`; the hidden size is config.json's.
  StackedExperts(const TensorFiles& source, const std::filesystem::path& path);

  /// Whether it is such a tensor, by name and shape.
  [[nodiscard]] static bool is_one(const TensorInfo& tensor);
  /// Why such a tensor cannot be quantized as rows of its last axis; empty: it can.
  [[nodiscard]] std::string reason_to_copy(const TensorInfo& tensor) const;

 private:
  const TensorFiles& source_;
  std::size_t hidden_size_ = 0;  ///< 0 = not known
};

}  // namespace nybble
