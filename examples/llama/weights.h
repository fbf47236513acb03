#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "config.h"
#include "nybble/io/safetensors.h"
#include "nybble/matrix.h"
#include "quantized_weights.h"

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
  Tensor weight;            ///< outputs x inputs; no values where the checkpoint is quantized
  std::vector<float> bias;  ///< outputs, or empty
};

struct BlockWeights {
  std::vector<float> attention_norm, mlp_norm;
  std::array<LinearWeights, kLinearCount> linear;
};

/// A checkpoint as it is on disk: what every Model made of it shares.
struct Weights {
  Config config;
  Tensor embedding;
  std::vector<BlockWeights> blocks;
  std::vector<float> final_norm;
  Tensor untied_head;                                 ///< empty if the head is the embedding
  std::shared_ptr<const QuantizedWeights> quantized;  ///< null: f32, as trained

  [[nodiscard]] const Tensor& head() const {
    return config.tied_embeddings ? embedding : untied_head;
  }
};

/// An opened Hugging Face Llama folder, config.json and safetensors, that gives its tensors one by
/// one. All throw nybble::Error naming the tensor that is missing or has another shape than the
/// config says.
class WeightsReader {
 public:
  explicit WeightsReader(const std::filesystem::path& directory);

  [[nodiscard]] const std::filesystem::path& directory() const { return directory_; }
  [[nodiscard]] const Config& config() const { return config_; }
  [[nodiscard]] const nybble::Checkpoint& checkpoint() const { return checkpoint_; }
  [[nodiscard]] bool quantized() const { return quantized_; }
  [[nodiscard]] Tensor embedding() const;
  [[nodiscard]] BlockWeights block(std::size_t index) const;
  [[nodiscard]] std::vector<float> final_norm() const;
  [[nodiscard]] Tensor untied_head() const;

 private:
  [[nodiscard]] std::vector<float> values(const std::string& name,
                                          const std::vector<std::size_t>& shape) const;
  [[nodiscard]] Tensor tensor(const std::string& name, std::size_t rows, std::size_t cols) const;
  [[nodiscard]] LinearWeights linear(std::size_t block, LinearIndex index) const;

  std::filesystem::path directory_;
  Config config_;
  nybble::Checkpoint checkpoint_;
  bool quantized_;
};

/// All of a folder. Throws what WeightsReader and read_quantized throw.
std::shared_ptr<const Weights> load_weights(const std::filesystem::path& directory);

}  // namespace llama
