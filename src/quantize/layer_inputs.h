#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nybble/io/tensor_file.h"
#include "nybble/quantize/calibration.h"

namespace nybble {

/// Inputs of the layers of a model to calibrate with: a .safetensors file that has them as tensors
/// [tokens, K] named as the layer (also with .weight, .calib or .input behind it), or a folder of
/// LAYER.npy and LAYER.safetensors (the same tensors, or what Calibration::save wrote). Layers that
/// read what another one does share its inputs: k_proj and v_proj those of q_proj, up_proj those of
/// gate_proj.
class LayerInputs {
 public:
  /// An empty path: there are none. Throws io, bad_file.
  explicit LayerInputs(const std::filesystem::path& path);

  /// Throws bad_option naming the layer where there are none for it; bad_shape where they do not
  /// have `channels` columns, as far as that is seen without reading them.
  void check(const std::string& layer, std::size_t channels) const;
  [[nodiscard]] Calibration read(const std::string& layer, std::size_t channels,
                                 Executor& executor) const;
  /// The files that results depend on.
  [[nodiscard]] std::vector<std::filesystem::path> files() const;

 private:
  /// Where a layer's inputs are: a tensor, or a file of their own.
  struct Place {
    const TensorInfo* tensor = nullptr;
    std::filesystem::path file;
  };
  [[nodiscard]] std::optional<Place> find(const std::string& layer) const;
  [[nodiscard]] std::optional<Place> find_exactly(const std::string& layer) const;

  std::filesystem::path path_;
  std::optional<TensorFile> file_;
};

}  // namespace nybble
