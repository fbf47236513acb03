#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "nybble/matrix.h"

namespace llama {

/// A named weight, converted to f32.
struct Tensor {
  std::string name;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::vector<float> values;

  [[nodiscard]] nybble::MatrixView view() const { return {values.data(), rows, cols}; }
};

struct LinearWeights {
  Tensor weight;            ///< outputs x inputs
  std::vector<float> bias;  ///< outputs, or empty
};

struct BlockWeights {
  std::vector<float> attention_norm, mlp_norm;
  LinearWeights q, k, v, o, gate, up, down;
};

/// A checkpoint as it was trained: what every Model made of it shares.
struct Weights {
  Config config;
  Tensor embedding;
  std::vector<BlockWeights> blocks;
  std::vector<float> final_norm;
  Tensor untied_head;  ///< empty if the head is the embedding

  [[nodiscard]] const Tensor& head() const {
    return config.tied_embeddings ? embedding : untied_head;
  }
};

/// Reads config.json and the safetensors checkpoint of a Hugging Face Llama folder. Throws
/// nybble::Error naming the tensor that is missing or has another shape than the config says.
std::shared_ptr<const Weights> load_weights(const std::filesystem::path& directory);

}  // namespace llama
