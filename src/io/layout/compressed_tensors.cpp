// compressed-tensors' two FP4 layouts, nvfp4-pack-quantized and mxfp4-pack-quantized, as
// vllm-project/compressed-tensors writes them. Codes as canonical ones; scales E4M3 a 16 and a
// divisor for the tensor, or E8M0 a 32. Scales of MXFP4 are U8 in their files; F8_E8M0 is read,
// too.

#include <fmt/format.h>

#include "nybble/error.h"
#include "nybble/format/registry.h"
#include "src/io/checked.h"
#include "src/io/layout/compressed_tensors_config.h"
#include "src/io/layout/e2m1_tensors.h"

namespace nybble::io {

namespace {

using Shape = std::vector<std::size_t>;

constexpr const char* kPacked = ".weight_packed";
constexpr const char* kScale = ".weight_scale";
constexpr const char* kGlobalScale = ".weight_global_scale";
constexpr const char* kInputScale = ".input_global_scale";

/// Of all modules with packed bytes (int4's are I32), those with two levels of scales or those
/// with one: each is one or the other, so that none goes unseen for a tensor it lacks.
std::vector<Module> find_packed(const TensorSource& source, bool two_levels) {
  std::vector<Module> modules;
  for (const std::string& name : source.names()) {
    const std::optional<std::string> module = module_of(name, kPacked);
    if (!module) continue;
    const TensorView& packed = *source.find(name);
    if (packed.type != TensorType::u8 || !has_rank(packed, 2)) continue;
    const TensorView* scale = source.find(*module + kScale);
    const bool nvfp4 = source.find(*module + kGlobalScale) != nullptr ||
                       (scale != nullptr && scale->type == TensorType::f8_e4m3);
    if (nvfp4 != two_levels) continue;
    modules.push_back({*module,
                       {packed.shape[0], packed.shape[1] * 2},
                       two_levels ? existing_tensors(source, *module,
                                                     {kPacked, kScale, kGlobalScale, kInputScale})
                                  : existing_tensors(source, *module, {kPacked, kScale})});
  }
  return modules;
}

class Nvfp4 final : public RefusingLayout {
 public:
  [[nodiscard]] std::string name() const override { return kName; }
  [[nodiscard]] std::string summary() const override {
    return "compressed-tensors nvfp4-pack-quantized (llm-compressor, vLLM): NVFP4, the tensor "
           "scale as a divisor";
  }
  [[nodiscard]] std::vector<Module> find(const TensorSource& source) const override {
    return find_packed(source, true);
  }
  [[nodiscard]] Evidence judge(const TensorSource& source,
                               std::span<const Module> modules) const override {
    Evidence evidence;
    judge_compressed_tensors(source.config(), kFormat, evidence);
    judge_block_scales(source, modules, kScale, evidence);
    judge_tensor_scales(source, modules, kGlobalScale, true, evidence);
    return evidence;
  }
  [[nodiscard]] bool holds_divisor() const override { return true; }
  [[nodiscard]] StoredLayer read(const TensorSource& source, const Module& module) const override {
    refuse_transform_config(source);
    return read_nvfp4(source, module, parts());
  }
  [[nodiscard]] AnyFormat format_for(const AnyFormat& format) const override {
    return format.info().spec == "nvfp4" ? parse_format("nvfp4:tensor=divisor") : format;
  }
  [[nodiscard]] WrittenLayer write(const StoredLayer& layer) const override {
    check_write(*this, layer, {.input_scale = true});
    return write_nvfp4(layer, parts());
  }
  [[nodiscard]] nlohmann::ordered_json config(const AnyFormat& /*format*/,
                                              std::span<const std::string> plain) const override {
    return compressed_tensors_config(kFormat,
                                     {{"num_bits", 4},
                                      {"type", "float"},
                                      {"symmetric", true},
                                      {"strategy", "tensor_group"},
                                      {"group_size", kGroup},
                                      {"dynamic", false}},
                                     plain);
  }

  /// Activations in NVFP4, too: one scale a tensor from the file, those of groups as they come.
  void amend(nlohmann::ordered_json& config, const StoredLayer& layer) const override {
    if (!layer.input_scale) return;
    nlohmann::ordered_json& group = config["config_groups"]["group_0"];
    group["input_activations"] = group["weights"];
    group["input_activations"]["dynamic"] = "local";
  }

 private:
  static constexpr const char* kName = "compressed_tensors_nvfp4";
  static constexpr const char* kFormat = "nvfp4-pack-quantized";
  static constexpr std::size_t kGroup = 16;

  static Nvfp4Parts parts() {
    return {kName, kPacked, kScale, kGlobalScale, kInputScale, true, true};
  }
  [[nodiscard]] std::string refusal(const AnyFormat& format,
                                    std::span<const std::size_t> shape) const override {
    if (!is_e2m1(format.info(), ScaleType::e4m3, kGroup, true)) {
      return fmt::format("format '{}', expected nvfp4", format.info().spec);
    }
    return e2m1_shape_refusal(shape, kGroup);
  }
};

class Mxfp4 final : public RefusingLayout {
 public:
  [[nodiscard]] std::string name() const override { return "compressed_tensors_mxfp4"; }
  [[nodiscard]] std::string summary() const override {
    return "compressed-tensors mxfp4-pack-quantized (llm-compressor, vLLM): MXFP4";
  }
  [[nodiscard]] std::vector<Module> find(const TensorSource& source) const override {
    return find_packed(source, false);
  }
  [[nodiscard]] Evidence judge(const TensorSource& source,
                               std::span<const Module> modules) const override {
    Evidence evidence;
    judge_compressed_tensors(source.config(), kFormat, evidence);
    judge_exponents(source, modules, kScale, evidence);
    return evidence;
  }
  [[nodiscard]] StoredLayer read(const TensorSource& source, const Module& module) const override {
    refuse_transform_config(source);
    const TensorView& packed = expect_rank(source, module.name + kPacked, TensorType::u8, 2, 2);
    const std::size_t rows = packed.shape[0];
    const std::size_t cols = packed.shape[1] * 2;
    const TensorView& scales =
        expect_any(source, module.name + kScale, {TensorType::u8, TensorType::f8_e8m0},
                   Shape{rows, whole_groups(source, packed, cols, kGroup)});
    StoredLayer layer{
        module.name, {rows, cols}, e2m1_matrix("mxfp4", rows, cols, packed, scales), {}};
    if (scales.type == TensorType::f8_e8m0) layer.details[kScaleType] = kE8m0;
    return layer;
  }
  [[nodiscard]] WrittenLayer write(const StoredLayer& layer) const override {
    check_write(*this, layer, {});
    const QuantizedMatrix& weight = layer.weight;
    const bool e8m0 = detail(layer, kScaleType) == kE8m0;
    return {{owned_tensor(layer.name + kPacked, TensorType::u8, {weight.rows, weight.cols / 2},
                          weight.codes),
             owned_tensor(layer.name + kScale, e8m0 ? TensorType::f8_e8m0 : TensorType::u8,
                          {weight.rows, weight.groups}, weight.scales)},
            {}};
  }
  [[nodiscard]] nlohmann::ordered_json config(const AnyFormat& /*format*/,
                                              std::span<const std::string> plain) const override {
    return compressed_tensors_config(kFormat,
                                     {{"num_bits", 4},
                                      {"type", "float"},
                                      {"symmetric", true},
                                      {"strategy", "group"},
                                      {"group_size", kGroup},
                                      {"dynamic", false}},
                                     plain);
  }

 private:
  static constexpr const char* kFormat = "mxfp4-pack-quantized";
  static constexpr const char* kScaleType = "compressed_tensors_mxfp4.scale_type";
  static constexpr const char* kE8m0 = "F8_E8M0";
  static constexpr std::size_t kGroup = 32;

  [[nodiscard]] std::string refusal(const AnyFormat& format,
                                    std::span<const std::size_t> shape) const override {
    if (!is_e2m1(format.info(), ScaleType::e8m0, kGroup, false)) {
      return fmt::format("format '{}', expected mxfp4 with groups of 32", format.info().spec);
    }
    return e2m1_shape_refusal(shape, kGroup);
  }
};

}  // namespace

std::unique_ptr<Layout> make_compressed_tensors_nvfp4_layout() { return std::make_unique<Nvfp4>(); }
std::unique_ptr<Layout> make_compressed_tensors_mxfp4_layout() { return std::make_unique<Mxfp4>(); }

}  // namespace nybble::io
