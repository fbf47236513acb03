// NVFP4 as NVIDIA's Model-Optimizer exports it: codes as canonical ones, E4M3 scales a 16, and a
// multiplier for the tensor (the largest |x| / 2688).

#include <fmt/format.h>

#include "nybble/error.h"
#include "src/io/checked.h"
#include "src/io/layout/e2m1_tensors.h"
#include "src/io/layout/json_members.h"

namespace nybble::io {

namespace {

using nlohmann::ordered_json;

constexpr const char* kName = "modelopt_nvfp4";
constexpr const char* kWeight = ".weight";
constexpr const char* kScale = ".weight_scale";
constexpr const char* kTensorScale = ".weight_scale_2";
constexpr const char* kInputScale = ".input_scale";
constexpr const char* kPreQuantScale = ".pre_quant_scale";
constexpr std::size_t kGroup = 16;

class ModeloptNvfp4 final : public RefusingLayout {
 public:
  [[nodiscard]] std::string name() const override { return kName; }
  [[nodiscard]] std::string summary() const override {
    return "NVIDIA Model-Optimizer NVFP4 (TensorRT-LLM, vLLM): the tensor scale as a multiplier";
  }
  [[nodiscard]] std::vector<Module> find(const TensorSource& source) const override;
  [[nodiscard]] Evidence judge(const TensorSource& source,
                               std::span<const Module> modules) const override;
  [[nodiscard]] StoredLayer read(const TensorSource& source, const Module& module) const override;
  [[nodiscard]] WrittenLayer write(const StoredLayer& layer) const override {
    check_write(*this, layer, {.input_scale = true});
    return write_nvfp4(layer, parts());
  }
  [[nodiscard]] ordered_json config(const AnyFormat& /*format*/,
                                    std::span<const std::string> plain) const override {
    ordered_json names = ordered_json::array();
    for (const std::string& module : plain) names.push_back(module);
    // Readers look for the one or the other name.
    return {{"quant_method", "modelopt"},     {"quant_algo", "NVFP4"},    {"group_size", kGroup},
            {"kv_cache_quant_algo", nullptr}, {"exclude_modules", names}, {"ignore", names}};
  }

 private:
  static Nvfp4Parts parts() {
    return {kName, kWeight, kScale, kTensorScale, kInputScale, false, false};
  }
  [[nodiscard]] std::string refusal(const AnyFormat& format,
                                    std::span<const std::size_t> shape) const override {
    if (!is_e2m1(format.info(), ScaleType::e4m3, kGroup, true)) {
      return fmt::format("format '{}', expected nvfp4", format.info().spec);
    }
    return e2m1_shape_refusal(shape, kGroup);
  }
};

std::vector<Module> ModeloptNvfp4::find(const TensorSource& source) const {
  std::vector<Module> modules;
  for (const std::string& name : source.names()) {
    const std::optional<std::string> module = module_of(name, kWeight);
    if (!module) continue;
    const TensorView& weight = *source.find(name);
    if (weight.type != TensorType::u8 || !has_rank(weight, 2)) continue;
    // Others have U8 weights, too (bitsandbytes, Quark): theirs have neither.
    const TensorView* scale = source.find(*module + kScale);
    if (scale == nullptr ? source.find(*module + kTensorScale) == nullptr
                         : scale->type != TensorType::f8_e4m3) {
      continue;
    }
    modules.push_back(
        {*module,
         {weight.shape[0], weight.shape[1] * 2},
         existing_tensors(source, *module,
                          {kWeight, kScale, kTensorScale, kInputScale, kPreQuantScale})});
  }
  return modules;
}

Evidence ModeloptNvfp4::judge(const TensorSource& source, std::span<const Module> modules) const {
  Evidence evidence;
  const std::string method = text_member(source.config(), "quant_method");
  const std::string algorithm = text_member(source.config(), "quant_algo");
  if (!method.empty()) {
    evidence.config_says =
        fmt::format("quant_method is {}, quant_algo {}", quote(method), quote(algorithm));
    const bool modelopt = method.starts_with("modelopt");
    if (modelopt && algorithm.find("NVFP4") != std::string::npos) {
      evidence.config = Evidence::Verdict::in_favour;
    } else if (!modelopt || (!algorithm.empty() && algorithm != "MIXED_PRECISION")) {
      evidence.config = Evidence::Verdict::against;
    }
  }
  judge_block_scales(source, modules, kScale, evidence);
  judge_tensor_scales(source, modules, kTensorScale, false, evidence);
  return evidence;
}

StoredLayer ModeloptNvfp4::read(const TensorSource& source, const Module& module) const {
  if (source.find(module.name + kPreQuantScale) != nullptr) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: tensor {}: scales of a layer's input (NVFP4_AWQ), expected none",
                            source.where(), quote(module.name + kPreQuantScale)));
  }
  return read_nvfp4(source, module, parts());
}

}  // namespace

std::unique_ptr<Layout> make_modelopt_nvfp4_layout() { return std::make_unique<ModeloptNvfp4>(); }

}  // namespace nybble::io
