#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "nybble/io/convert.h"
#include "nybble/io/quantized_checkpoint.h"
#include "src/io/layout/layout.h"
#include "src/io/model_files.h"

namespace nybble::io {

/// Throws unsupported, naming the layer, where there is one of another number of bits than 4, which
/// the config of `layout` has no words for.
void refuse_other_widths(const QuantizedCheckpoint& checkpoint, const std::string& layout);

/// What config.json of a converted checkpoint says: as before where the layout is, too; what the
/// layout writes otherwise. Layout nybble keeps the old quantization_config under a name of its
/// own, and going back to that layout restores it.
class ConvertedConfig {
 public:
  ConvertedConfig(const std::filesystem::path& source, const QuantizedCheckpoint& checkpoint,
                  const ConvertOptions& options, const Layout& target);

  /// To be called for every layer, as it is written. Throws unsupported where one config cannot
  /// describe all of them.
  void add(const StoredLayer& layer);
  /// Throws unsupported where the old config says more than the new one can: activations, a KV
  /// cache, other layers quantized in another way.
  void expect_nothing_lost() const;
  [[nodiscard]] std::vector<ModelFile> files() const;

 private:
  /// What a layout makes of all layers.
  struct Described {
    const Layout* layout = nullptr;
    nlohmann::ordered_json config;  ///< so far
    nlohmann::ordered_json first;   ///< what the first layer's format makes of it
    std::string first_format;       ///< empty: no layer yet
    bool one_for_all = true;

    void add(const StoredLayer& layer, std::span<const std::string> plain);
  };

  std::filesystem::path source_;
  const QuantizedCheckpoint& checkpoint_;
  bool kept_ = false;               ///< config.json stays as it is
  bool loses_ = false;              ///< what the old config says beyond the layers
  std::vector<std::string> plain_;  ///< modules with a matrix that is not quantized
  Described target_;
  nlohmann::ordered_json old_config_;
  /// For layout nybble: what the old layout makes of the layers. What its config really said is
  /// kept only where that is something else.
  Described old_;
  nlohmann::ordered_json restored_;  ///< instead of target_'s; null: nothing
};

}  // namespace nybble::io
