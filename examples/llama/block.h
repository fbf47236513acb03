#pragma once

#include <optional>
#include <vector>

#include "attention.h"
#include "linear_layer.h"
#include "nybble/attention/kv_cache.h"
#include "ops.h"
#include "weights.h"

namespace llama {

/// How a model is computed.
struct ModelSettings {
  nybble::LinearOptions linear;              ///< of layers in 4 bits
  std::optional<nybble::KvCacheOptions> kv;  ///< a 4-bit KV cache; none: f32
  bool kv_center = false;  ///< keys less the mean of those that one call first brings
  std::optional<nybble::AnyFormat> attention_cast;  ///< see Attention; not with kv
};

/// A transformer block whose linear layers are ready to run.
struct Block {
  const BlockWeights* weights;
  std::vector<LinearLayer> linear;  ///< by LinearIndex
};

/// What one block remembers of a text: keys and values in f32 or in 4 bits.
class BlockCache {
 public:
  BlockCache(const Config& config, const ModelSettings& settings, std::size_t capacity);
  /// Forgets the text.
  void clear();
  /// Appends keys and values as positions `first` and on; out = attention of q to all so far.
  void attend(MatrixView q, MatrixView k, MatrixView v, std::size_t first, MutableMatrixView out,
              Attention& attention, nybble::Workspace& workspace, Executor& executor);

 private:
  std::optional<KvCache> plain_;              // either this
  std::optional<nybble::KvCache> quantized_;  // or this
  bool center_;
  std::size_t head_dim_;
};

/// Runs blocks on new positions of a text, with scratch memory that all blocks share.
class BlockRunner {
 public:
  /// For texts of up to `capacity` tokens. Throws bad_option if the model has fewer positions.
  BlockRunner(const Config& config, const ModelSettings& settings, std::size_t capacity,
              Executor& executor);

  /// x (tokens x hidden_size) goes through the block, in place; its first row is position `first`.
  void run(const Block& block, BlockCache& cache, MutableMatrixView x, std::size_t first);

  /// The steps of run(), each with the result of the one before. Results are valid until the next
  /// call.
  MatrixView attention_input(const Block& block, MatrixView x);  ///< of q, k and v
  MatrixView attend(const Block& block, BlockCache& cache, MatrixView input,
                    std::size_t first);  ///< the input of o
  void finish_attention(const Block& block, MatrixView attended, MutableMatrixView x);
  MatrixView mlp_input(const Block& block, MatrixView x);  ///< of gate and up
  MatrixView gated(const Block& block, MatrixView input);  ///< the input of down
  void finish_mlp(const Block& block, MatrixView gated, MutableMatrixView x);

 private:
  MutableMatrixView run_layer(const LinearLayer& layer, MatrixView in, Buffer& out);
  MatrixView norm(MatrixView x, std::span<const float> gain);

  const Config& config_;
  Executor& executor_;
  Rope rope_;
  Attention attention_;
  nybble::Workspace workspace_;
  Buffer normed_, q_, k_, v_, attended_, gate_, up_, delta_;
};

}  // namespace llama
