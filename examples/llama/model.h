#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attention.h"
#include "linear_layer.h"
#include "nybble/attention/kv_cache.h"
#include "weights.h"

namespace llama {

struct ModelSettings {
  LinearSettings linear;
  std::optional<nybble::KvCacheOptions> kv;  ///< a 4-bit KV cache; none: f32
  bool kv_center = false;  ///< keys less the mean of those that one call first brings
  std::optional<nybble::AnyFormat> attention_cast;  ///< see Attention; not with kv
};

/// A checkpoint whose linear layers are ready to run. Embeddings, norms and the head stay f32.
class Model {
 public:
  Model(std::shared_ptr<const Weights> weights, ModelSettings settings, Executor& executor);

  struct Block {
    const BlockWeights* weights;
    LinearLayer q, k, v, o, gate, up, down;
  };
  [[nodiscard]] const Weights& weights() const { return *weights_; }
  [[nodiscard]] const Config& config() const { return weights_->config; }
  [[nodiscard]] const ModelSettings& settings() const { return settings_; }
  [[nodiscard]] const std::vector<Block>& blocks() const { return blocks_; }

  /// "f32" or the canonical format string.
  [[nodiscard]] std::string format_name() const;
  /// "f32" or "a8", "a16", ...
  [[nodiscard]] std::string path_name() const;
  /// Of the linear layers of the blocks, on average.
  [[nodiscard]] double bits_per_weight() const;
  /// How many weights those layers have.
  [[nodiscard]] std::size_t linear_weights() const;
  /// The kernels they run, each name once.
  [[nodiscard]] std::string kernels() const;

 private:
  std::shared_ptr<const Weights> weights_;
  ModelSettings settings_;
  std::vector<Block> blocks_;
};

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
  void run_block(std::size_t index, MutableMatrixView x);
  void center_keys(nybble::KvCache& cache, MatrixView k);

  const Model& model_;
  Executor& executor_;
  std::size_t capacity_;
  std::size_t length_ = 0;
  Rope rope_;
  std::vector<KvCache> caches_;             // either these, one per block,
  std::vector<nybble::KvCache> kv_caches_;  // or these
  Attention attention_;
  nybble::Workspace workspace_;
  std::vector<float> mean_key_;
  Buffer x_, normed_, q_, k_, v_, attended_, gate_, up_, delta_, logits_;
};

}  // namespace llama
