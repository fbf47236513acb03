#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "config.h"
#include "nybble/io/quantized_checkpoint.h"
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

/// An opened Llama that gives its tensors one by one: a folder with config.json and safetensors, or
/// a .gguf file, in floats or quantized in any layout that nybble reads. Names are those of Hugging
/// Face. All throw nybble::Error naming the tensor that is missing or has another shape than the
/// config says.
class WeightsReader {
 public:
  explicit WeightsReader(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const Config& config() const { return config_; }
  /// Whether any linear layer of a block is.
  [[nodiscard]] bool quantized() const { return quantized_; }
  [[nodiscard]] Tensor embedding() const;
  /// Weights of quantized layers have no values.
  [[nodiscard]] BlockWeights block(std::size_t index) const;
  [[nodiscard]] std::vector<float> final_norm() const;
  [[nodiscard]] Tensor untied_head() const;
  /// The quantized layers. Throws bad_file, too, where the metadata makes no sense.
  [[nodiscard]] QuantizedWeights quantized_weights() const;

 private:
  [[nodiscard]] std::string file_name(const std::string& name) const;
  [[nodiscard]] const nybble::QuantizedCheckpoint::LayerEntry* find_layer(
      const std::string& module) const;
  void expect_shape(const std::string& name, const std::vector<std::size_t>& found,
                    const std::vector<std::size_t>& expected) const;
  [[nodiscard]] nybble::QuantizedLayer layer(const std::string& module, std::size_t rows,
                                             std::size_t cols) const;
  [[nodiscard]] std::vector<float> values(const std::string& name,
                                          const std::vector<std::size_t>& shape) const;
  [[nodiscard]] Tensor tensor(const std::string& name, std::size_t rows, std::size_t cols) const;
  [[nodiscard]] LinearWeights linear(std::size_t block, LinearIndex index) const;

  std::filesystem::path path_;
  nybble::QuantizedCheckpoint checkpoint_;
  bool gguf_;
  Config config_;
  bool quantized_;
};

/// All of it. Throws what WeightsReader throws.
std::shared_ptr<const Weights> load_weights(const std::filesystem::path& path);

}  // namespace llama
