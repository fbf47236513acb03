#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nybble/io/orientation.h"
#include "nybble/io/safetensors.h"
#include "nybble/io/stored_layer.h"

namespace nybble {

/// A checkpoint with 4-bit weights, whoever made it: GPTQ (v1 and v2), AutoAWQ (gemm and gemv),
/// bitsandbytes, compressed-tensors, ModelOpt, gpt-oss, nybble itself (.safetensors or a folder of
/// them, beside its config.json) or a .gguf file (any part of one that was split, beside the
/// others). Layers are read one at a time; files stay mapped.
class QuantizedCheckpoint {
 public:
  /// A quantized layer, and a tensor that is none.
  struct LayerEntry {
    std::string name;                  ///< of the module, as StoredLayer's
    std::string layout;                ///< "gptq_v2", "gguf", ...
    std::vector<std::size_t> shape;    ///< as StoredLayer's
    std::vector<std::string> tensors;  ///< the file's own that it is made of
  };
  struct TensorEntry {
    std::string name;
    std::string type;  ///< as the file names it: "BF16", "Q8_0"
    std::vector<std::size_t> shape;
    Orientation orientation = Orientation::out_in;
  };

  /// Opens `path` and decides by names, shapes, metadata and data which layout each layer is in;
  /// `layout` forces one. Throws io; bad_file where a file is damaged or its evidence contradicts
  /// itself, with both readings; bad_option for an unknown layout.
  explicit QuantizedCheckpoint(const std::filesystem::path& path, const std::string& layout = "");
  QuantizedCheckpoint(QuantizedCheckpoint&&) noexcept;
  QuantizedCheckpoint& operator=(QuantizedCheckpoint&&) noexcept;
  ~QuantizedCheckpoint();

  /// The files it is in.
  [[nodiscard]] const std::vector<std::filesystem::path>& files() const;
  /// Sorted by name. Empty for a checkpoint of floats.
  [[nodiscard]] const std::vector<LayerEntry>& layers() const;
  /// All other tensors, in the order of the files.
  [[nodiscard]] const std::vector<TensorEntry>& tensors() const;
  /// Layers stored as 4-bit ones are, with other numbers of bits: those by name. Their tensors are
  /// among tensors().
  [[nodiscard]] const std::map<std::string, std::size_t>& other_widths() const;
  /// Which layouts were found and why, a line each, and which layers are of other_widths().
  [[nodiscard]] const std::vector<std::string>& reasons() const;
  /// What the config beside the tensors says they were quantized with: "gptq", "fp8", ... Empty: it
  /// says nothing.
  [[nodiscard]] const std::string& claimed_method() const;
  /// The free text of the files' metadata.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const;

  /// A layer, exactly as the file has it. Throws bad_option where there is none of that name;
  /// bad_file naming the tensor; unsupported.
  [[nodiscard]] StoredLayer read(const std::string& layer) const;
  /// Another tensor as f32, decoded where its type is one of GGUF's blocks.
  [[nodiscard]] std::vector<float> read_f32(const std::string& tensor) const;
  /// Another tensor's bytes as they are in the file, whatever its type.
  [[nodiscard]] std::span<const std::byte> bytes(const std::string& tensor) const;
  /// Another tensor as it is in the file; types that safetensors does not have become F32 (into
  /// `storage`, which the result then points to).
  [[nodiscard]] TensorView raw(const std::string& tensor, std::vector<float>& storage) const;

  struct Source;  ///< what differs between kinds of files

 private:
  std::unique_ptr<const Source> source_;
};

/// Names of the layouts that files are written in: "gptq", "awq_gemm", ..., for help and errors.
std::vector<std::string> layout_names();

}  // namespace nybble
