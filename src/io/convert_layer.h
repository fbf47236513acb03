#pragma once

#include <map>
#include <optional>
#include <string>

#include "nybble/executor.h"
#include "nybble/io/convert.h"
#include "nybble/io/quantized_checkpoint.h"
#include "src/io/gguf_model.h"
#include "src/io/layout/layout.h"

namespace nybble::io {

/// Ends the message where a detail has no place: what to do about it.
constexpr const char* kDropDetails =
    "no weight depends on it: --drop-details (ConvertOptions::drop_details) leaves it out";

/// A checkpoint's own tensors, to compare with.
struct SourceFiles {
  std::optional<Checkpoint> safetensors;
  std::optional<GgufModel> gguf;

  explicit SourceFiles(const std::filesystem::path& path);
  /// All names in the order of the files.
  [[nodiscard]] std::vector<std::string> names() const;
};

/// The layers of a checkpoint on their way to another layout.
class LayerConverter {
 public:
  using Entry = QuantizedCheckpoint::LayerEntry;

  LayerConverter(const QuantizedCheckpoint& checkpoint, const SourceFiles& files,
                 const ConvertOptions& options, Executor& executor);

  [[nodiscard]] bool to_gguf() const { return target_ == nullptr; }
  /// Not for GGUF.
  [[nodiscard]] const Layout& target() const { return *target_; }

  /// The layer as it will be: read, and quantized again where that is asked for.
  [[nodiscard]] StoredLayer layer(const Entry& entry) const;
  /// Throws unsupported, naming the layer, unless what is written says all that `layer` and its
  /// source say. `written` is what target() wrote; null for GGUF.
  void prove(const Entry& entry, const StoredLayer& layer, const WrittenLayer* written) const;
  /// What the layer's own layout says in __metadata__: not to be copied.
  [[nodiscard]] std::map<std::string, std::string> own_metadata(const Entry& entry,
                                                                const StoredLayer& layer) const;

 private:
  [[nodiscard]] StoredLayer read_back(const StoredLayer& layer, const WrittenLayer& written) const;
  [[nodiscard]] StoredLayer through_gguf(const StoredLayer& layer) const;
  void expect_source_again(const Entry& entry, const StoredLayer& layer,
                           const StoredLayer& back) const;
  void expect_same_blocks(const Entry& entry, const StoredLayer& layer,
                          const StoredLayer& back) const;
  void expect_same_tensors(const Entry& entry, const StoredLayer& layer,
                           const StoredLayer& back) const;
  [[noreturn]] void refuse(const std::string& layer, const std::string& why) const;

  const QuantizedCheckpoint& checkpoint_;
  const SourceFiles& files_;
  const ConvertOptions& options_;
  Executor& executor_;
  const Layout* target_;  ///< null: GGUF
};

}  // namespace nybble::io
