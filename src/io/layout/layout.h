#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nybble/io/safetensors.h"
#include "nybble/io/stored_layer.h"

/// Checkpoint layouts: how a tool lays a 4-bit weight out in the tensors of a safetensors file. One
/// source file and one row in the registry each.
namespace nybble::io {

/// Where layouts find tensors.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// Null where there is none.
  [[nodiscard]] virtual const TensorView* find(std::string_view name) const = 0;
  [[nodiscard]] virtual std::vector<std::string> names() const = 0;
  /// File or folder, for errors.
  [[nodiscard]] virtual const std::string& where() const = 0;
  /// __metadata__ of all its files.
  [[nodiscard]] virtual const std::map<std::string, std::string>& metadata() const = 0;
  /// What says how it was quantized: quantization_config of config.json, quantize_config.json or
  /// hf_quant_config.json. An empty object where there is nothing.
  [[nodiscard]] virtual const nlohmann::json& config() const = 0;

  /// Throws bad_file naming the tensor where it is missing or of another type or shape.
  [[nodiscard]] const TensorView& expect(const std::string& name, TensorType type,
                                         std::span<const std::size_t> shape) const;
};

/// A tensor with bytes of its own.
struct OwnedTensor {
  std::string name;
  TensorType type = TensorType::u8;
  std::vector<std::size_t> shape;
  std::vector<std::byte> bytes;

  [[nodiscard]] TensorView view() const { return {name, type, shape, bytes}; }
};

/// What a layer is written as.
struct WrittenLayer {
  std::vector<OwnedTensor> tensors;
  std::map<std::string, std::string> metadata;  ///< for __metadata__
};

/// A module whose tensors have the names, types and shapes of a layout.
struct Module {
  std::string name;
  std::vector<std::size_t> shape;    ///< as StoredLayer's
  std::vector<std::string> tensors;  ///< all that belong to it
};

/// What speaks for a layout and against it, apart from names and shapes.
struct Evidence {
  enum class Verdict { against, silent, in_favour };
  Verdict config = Verdict::silent;
  std::string config_says;  ///< "quant_method is \"gptq\", checkpoint_format \"gptq_v2\""
  Verdict data = Verdict::silent;
  std::string data_says;  ///< "model.layers.0.q_proj.qzeros is 0x88888888 throughout"
};

class Layout {
 public:
  virtual ~Layout() = default;
  [[nodiscard]] virtual std::string name() const = 0;     ///< "gptq_v2": what --layout takes
  [[nodiscard]] virtual std::string summary() const = 0;  ///< one line: whose it is, what it holds

  /// The modules that look like this layout's by names, types and shapes alone: of the bytes, only
  /// those of tensors that describe others (a shape, a state) are there. Never throws for files
  /// that are of another layout.
  [[nodiscard]] virtual std::vector<Module> find(const TensorSource& source) const = 0;
  /// `modules` are what find() gave.
  [[nodiscard]] virtual Evidence judge(const TensorSource& source,
                                       std::span<const Module> modules) const = 0;
  /// Without loss. Throws bad_file naming the tensor, the value and what was expected; unsupported
  /// for what is valid but cannot be held.
  [[nodiscard]] virtual StoredLayer read(const TensorSource& source,
                                         const Module& module) const = 0;

  /// What to quantize to where `format` is asked for, so that any weight can be written.
  [[nodiscard]] virtual AnyFormat format_for(const AnyFormat& format) const { return format; }
  /// Throws unsupported, with the reason, where this layout cannot hold a weight of that format and
  /// shape: known before the work starts.
  virtual void check(const AnyFormat& format, std::span<const std::size_t> shape) const = 0;
  /// Whether its files hold the reciprocal of a tensor scale: quantizers must then choose one that
  /// is the reciprocal of an f32 (TensorScale::divisor).
  [[nodiscard]] virtual bool holds_divisor() const { return false; }
  /// Whether what weights of a format take depends on their values, too: numbers written as text.
  [[nodiscard]] virtual bool sizes_vary(const AnyFormat& /*format*/) const { return false; }
  /// Without loss. Throws unsupported naming the layer where this layout cannot hold it.
  [[nodiscard]] virtual WrittenLayer write(const StoredLayer& layer) const = 0;
  /// quantization_config for config.json. `format` is that of the layers, `plain` the modules with
  /// a weight that is not quantized. Null: this layout needs none.
  [[nodiscard]] virtual nlohmann::ordered_json config(const AnyFormat& format,
                                                      std::span<const std::string> plain) const = 0;
  /// Sets what of config() depends on the layers (GPTQ's desc_act): to be called with each of them.
  virtual void amend(nlohmann::ordered_json& /*config*/, const StoredLayer& /*layer*/) const {}
};

/// All of them.
const std::vector<std::unique_ptr<Layout>>& layouts();
/// Throws bad_option with the names there are.
const Layout& find_layout(std::string_view name);

/// A module and the layout it is in.
struct FoundModule {
  const Layout* layout;
  Module module;
};

/// The quantized modules of a checkpoint, sorted by name, each with the one layout that names,
/// shapes, metadata and data agree on. `reasons` gets a line a layout: what was decided and why.
/// Throws bad_file, with both readings, where they contradict each other or several layouts remain.
/// `forced`, unless empty, is a layout's name: only its modules are looked for, no evidence is
/// asked, and it is an error where there are none.
std::vector<FoundModule> detect(const TensorSource& source, std::string_view forced,
                                std::vector<std::string>& reasons);

/// Tensors in memory: what a layout just wrote, read again.
class MemorySource final : public TensorSource {
 public:
  explicit MemorySource(WrittenLayer written, nlohmann::json config = nlohmann::json::object());
  [[nodiscard]] const TensorView* find(std::string_view name) const override;
  [[nodiscard]] std::vector<std::string> names() const override;
  [[nodiscard]] const std::string& where() const override;
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const override {
    return written_.metadata;
  }
  [[nodiscard]] const nlohmann::json& config() const override { return config_; }

 private:
  WrittenLayer written_;
  nlohmann::json config_;
  std::map<std::string, TensorView, std::less<>> views_;
};

// One factory a source file.
std::unique_ptr<Layout> make_gptq_layout(bool v2);
std::unique_ptr<Layout> make_awq_gemm_layout();
std::unique_ptr<Layout> make_awq_gemv_layout();
std::unique_ptr<Layout> make_bitsandbytes_layout();
std::unique_ptr<Layout> make_compressed_tensors_int4_layout();
std::unique_ptr<Layout> make_compressed_tensors_nvfp4_layout();
std::unique_ptr<Layout> make_compressed_tensors_mxfp4_layout();
std::unique_ptr<Layout> make_modelopt_nvfp4_layout();
std::unique_ptr<Layout> make_gpt_oss_layout();
std::unique_ptr<Layout> make_nybble_layout();

}  // namespace nybble::io
