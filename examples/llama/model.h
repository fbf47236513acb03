#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "block.h"
#include "weights.h"

namespace llama {

/// A checkpoint whose linear layers are ready to run. Embeddings, norms and the head stay f32.
class Model {
 public:
  /// With the linear layers of `quantized`, or, where that is null, as trained.
  Model(std::shared_ptr<const Weights> weights, std::shared_ptr<const QuantizedWeights> quantized,
        ModelSettings settings, Executor& executor);

  [[nodiscard]] const Weights& weights() const { return *weights_; }
  [[nodiscard]] const Config& config() const { return weights_->config; }
  [[nodiscard]] const ModelSettings& settings() const { return settings_; }
  [[nodiscard]] const std::vector<Block>& blocks() const { return blocks_; }

  /// "f32" or the canonical format string.
  [[nodiscard]] std::string format_name() const;
  /// "f32" or the method's canonical string.
  [[nodiscard]] std::string method_name() const;
  /// "f32" or "a8", "a16", ...
  [[nodiscard]] std::string path_name() const;
  /// Of the linear layers of the blocks, on average.
  [[nodiscard]] double bits_per_weight() const;
  /// How many weights those layers have.
  [[nodiscard]] std::size_t linear_weights() const;
  /// That quantizing took, calibration included.
  [[nodiscard]] double quantize_seconds() const { return quantize_seconds_; }
  /// The kernels they run, each name once.
  [[nodiscard]] std::string kernels() const;

 private:
  std::shared_ptr<const Weights> weights_;
  ModelSettings settings_;
  std::vector<Block> blocks_;
  std::string format_ = "f32", method_ = "f32";
  double quantize_seconds_ = 0;
};

/// Rows of x become the tokens' embeddings. Throws bad_value for a token outside the vocabulary.
void embed(std::span<const Token> tokens, const Tensor& embedding, MutableMatrixView x);

/// One text running through a model: its KV cache and scratch memory.
class Session {
 public:
  /// For texts of up to `capacity` tokens. Throws bad_option if the model has fewer positions.
  Session(const Model& model, std::size_t capacity, Executor& executor);

  /// Forgets the text.
  void reset();
  [[nodiscard]] std::size_t length() const { return length_; }

  enum class Logits { all, last };
  /// Appends tokens (all at once) and returns the logits that follow each or the last of them, rows
  /// x vocab_size, valid until the next call. Throws bad_shape (no tokens, more than the capacity),
  /// bad_value (token outside the vocabulary).
  MatrixView forward(std::span<const Token> tokens, Logits which);

 private:
  const Model& model_;
  Executor& executor_;
  std::size_t capacity_;
  std::size_t length_ = 0;
  BlockRunner runner_;
  std::vector<BlockCache> caches_;  // one per block
  Buffer x_, normed_, logits_;
};

}  // namespace llama
